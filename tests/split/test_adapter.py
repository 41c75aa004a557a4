"""An adapter saved from the server segment is a stock adapter of the whole, untouched model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from splitfrozen.errors import ModelError
from splitfrozen_export.split import (
    load_device_segment,
    load_server_segment,
    lora_config,
    resolve_model,
    run_segment,
)
from splitfrozen_export.split.server import Task
from tests.split.inputs import (
    LABELS,
    load_stock,
    make_ids,
    make_mask,
    over_real_tokens,
    peft_asks_by_the_old_name,
    run_stock,
)
from tests.tiny_models import FAMILIES

pytestmark = peft_asks_by_the_old_name

CUT = 2
CASES: list[tuple[str, Task]] = [(family, "classification") for family in FAMILIES]
CASES += [(family, "causal_lm") for family in ("gpt2", "llama", "opt", "bloom", "phi3")]


def save_random_adapter(model_directory: Path, task: Task, output: Path) -> Any:
    """Save an adapter whose every trained value is random; return the PeftModel."""
    segment = load_server_segment(
        resolve_model(model_directory), CUT, task, num_labels=LABELS, seed=3
    )
    peft_model = get_peft_model(
        segment.model, lora_config(segment, r=4, alpha=8, dropout=0.0)
    ).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    peft_model.save_pretrained(output)
    return peft_model


@pytest.mark.parametrize(("family", "task"), CASES)
@torch.no_grad()
def test_the_adapter_gives_the_same_logits_on_the_untouched_whole_model(
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    family: str,
    task: Task,
) -> None:
    source = resolve_model(tiny_model(family))
    trained = save_random_adapter(tiny_model(family), task, tmp_path)
    base = load_stock(tiny_model(family), task, seed=99)  # another head: the adapter brings its own
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        stock = PeftModel.from_pretrained(base, tmp_path)  # a missing key would warn: an error here
    assert not caplog.records
    mask = make_mask("right")
    ids = make_ids(source.config, mask)
    split = run_segment(trained, load_device_segment(source, CUT)(ids, mask), mask)
    difference = over_real_tokens(split, mask) - over_real_tokens(run_stock(stock, ids, mask), mask)
    assert float(difference.abs().max()) == 0.0


@pytest.mark.parametrize(("family", "task"), [("bert", "classification"), ("gpt2", "causal_lm")])
def test_the_adapter_directory_is_flat_and_names_layers_and_base(
    tiny_model: Callable[[str], Path], tmp_path: Path, family: str, task: Task
) -> None:
    save_random_adapter(tiny_model(family), task, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert config["layers_to_transform"] == [2, 3]
    assert config["base_model_name_or_path"] == str(tiny_model(family))
    assert config["fan_in_fan_out"] is (family == "gpt2")
    assert config["auto_mapping"] is None  # no class of ours leaks into the adapter
    assert "splitfrozen" not in (tmp_path / "adapter_config.json").read_text()


def test_merging_the_adapter_into_the_whole_model_keeps_its_logits(
    tiny_model: Callable[[str], Path], tmp_path: Path, *, atol: float = 1e-5
) -> None:
    save_random_adapter(tiny_model("llama"), "causal_lm", tmp_path)
    stock = PeftModel.from_pretrained(load_stock(tiny_model("llama"), "causal_lm"), tmp_path)
    mask = make_mask("ones")
    ids = make_ids(stock.config, mask)
    with torch.no_grad():
        expected = run_stock(stock, ids, mask)
        merged = run_stock(stock.merge_and_unload(), ids, mask)
    torch.testing.assert_close(merged, expected, atol=atol, rtol=1e-5)


def test_chosen_target_modules_are_named_by_suffix(tiny_model: Callable[[str], Path]) -> None:
    segment = load_server_segment(resolve_model(tiny_model("llama")), CUT, "causal_lm")
    config = lora_config(segment, r=2, alpha=4, dropout=0.0, target_modules=["q_proj", "v_proj"])
    assert config.target_modules == {"q_proj", "v_proj"}
    with pytest.raises(ModelError, match="no linear layer of a block is called 'query'") as caught:
        lora_config(segment, r=2, alpha=4, dropout=0.0, target_modules=["query"])
    assert caught.value.param == "target_modules"


@pytest.mark.parametrize(
    ("family", "heads"),
    [
        ("bert", ["bert.pooler", "classifier"]),
        ("roberta", ["classifier"]),
        ("distilbert", ["pre_classifier", "classifier"]),
        ("deberta-v2", ["pooler", "classifier"]),
        ("modernbert", ["head", "classifier"]),
        ("opt", ["score"]),
    ],
)
def test_the_head_is_found_by_what_only_the_logits_depend_on(
    tiny_model: Callable[[str], Path], family: str, heads: list[str]
) -> None:
    segment = load_server_segment(
        resolve_model(tiny_model(family)), CUT, "classification", num_labels=LABELS
    )
    assert segment.head_modules == heads
