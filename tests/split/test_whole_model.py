"""Device segment then server segment is the whole model, for every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from splitfrozen_export.split import (
    load_device_segment,
    load_server_segment,
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
    run_stock,
)
from tests.tiny_models import DECODERS, FAMILIES, is_decoder

CASES: list[tuple[str, Task]] = [(family, "classification") for family in FAMILIES]
CASES += [(family, "causal_lm") for family in DECODERS]


@torch.no_grad()
def assert_split_equals_whole(
    directory: Path, task: Task, cut: int, masks: list[str], *, atol: float = 0.0
) -> None:
    """Compare logits at real tokens with stock Transformers on padded input ids."""
    source = resolve_model(directory)
    whole = load_stock(directory, task)
    device = load_device_segment(source, cut)
    server = load_server_segment(source, cut, task, num_labels=LABELS)
    for kind in masks:
        mask = make_mask("ones" if kind == "none" else kind)
        ids = make_ids(source.config, mask)
        expected = run_stock(whole, ids, None if kind == "none" else mask, left=kind == "left")
        assert_same(run_segment(server, device(ids, mask), mask), expected, mask, atol, kind)


def assert_same(split: Tensor, whole: Tensor, mask: Tensor, atol: float, kind: str) -> None:
    difference = (over_real_tokens(split, mask) - over_real_tokens(whole, mask)).abs().max()
    assert float(difference) <= atol, f"mask {kind}: difference {float(difference)}"


@pytest.mark.parametrize(("family", "task"), CASES)
def test_device_then_server_segment_equals_the_whole_model(
    tiny_model: Callable[[str], Path], family: str, task: Task
) -> None:
    masks = ["none", "ones", "right"] + (["left"] if is_decoder(family) else [])
    assert_split_equals_whole(tiny_model(family), task, 2, masks)


@pytest.mark.parametrize("cut", [1, 3])
@pytest.mark.parametrize("family", ["gpt2", "gemma3", "bert", "deberta-v2", "modernbert"])
def test_every_cut_equals_the_whole_model(
    tiny_model: Callable[[str], Path], family: str, cut: int
) -> None:
    assert_split_equals_whole(tiny_model(family), "classification", cut, ["ones", "right"])


def test_the_last_real_token_may_have_the_padding_id(tiny_model: Callable[[str], Path]) -> None:
    """A decoder that ends its texts with its padding id: lengths know better than ids do."""
    source = resolve_model(tiny_model("llama"))
    device = load_device_segment(source, 2)
    server = load_server_segment(source, 2, "classification", num_labels=LABELS)
    mask = torch.ones(1, 6, dtype=torch.long)
    ids = make_ids(source.config, mask)
    ids[0, -1] = source.config.pad_token_id
    with torch.no_grad():
        alone = run_segment(server, device(ids, mask), mask)
        padded_mask = torch.nn.functional.pad(mask, (0, 3))
        padded = run_segment(
            server, device(torch.nn.functional.pad(ids, (0, 3), value=7), padded_mask), padded_mask
        )
    torch.testing.assert_close(padded, alone)


@pytest.mark.parametrize("family", ["mistral", "opt"])
def test_a_projected_or_post_norm_variant_equals_the_whole_model(
    tmp_path: Path, family: str
) -> None:
    from tests.tiny_models import write_tiny_model

    variants = {
        "opt": {"word_embed_proj_dim": 16, "do_layer_norm_before": False},  # as in OPT-350m
        "mistral": {"tie_word_embeddings": True, "sliding_window": None},
    }
    directory = write_tiny_model(family, tmp_path / family, **variants[family])
    assert_split_equals_whole(directory, "causal_lm", 2, ["none", "right", "left"])
    assert_split_equals_whole(directory, "classification", 2, ["right"])
