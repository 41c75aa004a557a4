"""Whole models load and answer with `optimum.onnxruntime`, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.export.home.adapters import stock_answers, write_adapter
from tests.export.home.conftest import take_home
from tests.optimum.environment import REPOSITORY, optimum_python
from tests.tiny_models import write_tiny_model

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]  # the first run downloads packages
TEXT = "Once upon a time"
NEW = 24


@pytest.fixture(scope="session")
def optimum() -> Callable[..., dict[str, Any]]:
    """Runs answers.py in the environment, which it makes where there is none."""
    python = optimum_python()

    def answer(*arguments: object) -> dict[str, Any]:
        script = REPOSITORY / "tests" / "optimum" / "answers.py"
        command = [str(python), "-I", str(script), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return answer


def greedy(model: Any, directory: Path) -> list[int]:
    inputs = AutoTokenizer.from_pretrained(directory)(
        TEXT, return_tensors="pt", return_token_type_ids=False
    )
    found = model.generate(
        **inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0
    )
    return [int(token) for token in found[0]]


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_the_real_small_llama_generates(
    precision: str,
    shared_models: Path,
    optimum: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    """fp32: the tokens of stock Transformers. Coded: as many tokens, beginning like them."""
    model = shared_models / "stories260K"
    home = take_home(model, tmp_path / "home", precision=precision).directory
    found = optimum("generate", home, TEXT, NEW)
    expected = greedy(AutoModelForCausalLM.from_pretrained(model).eval(), model)
    assert found["padded"] == found["ids"], "padding on the left changes the tokens"
    assert len(found["ids"]) == len(expected)
    agreeing = len(expected) if precision == "fp32" else len(expected) - NEW + 4
    assert found["ids"][:agreeing] == expected[:agreeing]


def test_gpt2_with_an_adapter_generates_the_tokens_of_stock_peft(
    tiny_model: Callable[[str], Path], optimum: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    model = tiny_model("gpt2")
    adapter = write_adapter(model, tmp_path / "adapter")
    home = take_home(model, tmp_path / "home", adapter=adapter, precision="fp32").directory
    found = optimum("generate", home, TEXT, NEW)
    assert found["ids"] == greedy(stock_answers(model, adapter), model)


def test_scaled_rotary_positions_are_read_under_their_older_names(
    optimum: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    model = write_tiny_model("llama", tmp_path / "model", num_hidden_layers=2)
    home = take_home(model, tmp_path / "home", precision="fp32").directory
    found = optimum("generate", home, TEXT, NEW)
    assert found["ids"] == greedy(AutoModelForCausalLM.from_pretrained(model).eval(), model)
    assert found["rope_theta"] == 500000.0
    assert found["rope_scaling"]["rope_type"] == "llama3"
    assert found["rope_scaling"]["factor"] == 32.0


def test_a_bert_classifier_gives_the_labels_of_stock_peft(
    tiny_model: Callable[[str], Path], optimum: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    model = tiny_model("bert")
    adapter = write_adapter(model, tmp_path / "adapter", "SEQ_CLS")
    labels = ["bad", "good", "neither"]
    (adapter / "splitfrozen.json").write_text(json.dumps({"labels": labels}))
    home = take_home(model, tmp_path / "home", adapter=adapter, precision="fp32").directory
    texts = ["the rain", "a train in the rain", "no", "2 + 2 = 4", "is it?", "seven old bells"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    stock = stock_answers(model, adapter, "SEQ_CLS")
    with torch.no_grad():
        logits = [stock(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    chances = torch.stack(logits).softmax(-1)
    found = optimum("classify", home, *texts)
    assert found["label"] == [labels[index] for index in chances.argmax(-1).tolist()]
    assert found["score"] == pytest.approx(chances.max(-1).values.tolist(), abs=1e-4)
