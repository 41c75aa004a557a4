"""A whole model with its adapter merged answers like stock PEFT and Transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from examples.generate_on_device import generate, main
from splitfrozen.errors import SplitFrozenError
from splitfrozen_export.home import HomeResult
from tests.export.home.adapters import stock_answers, write_adapter
from tests.export.home.conftest import take_home

_HEADS = "q_num_heads"
IDS = [[7, 30, 41, 12, 99, 5], [55, 8, 61, 20, 3, 17]]


def run(directory: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(directory / "model.onnx")
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: inputs[name] for name in names})


def test_merged_logits_are_those_of_stock_peft(
    shallow: Callable[[str], Path], gpt2_adapter: Path, gpt2_home: HomeResult
) -> None:
    ids = torch.tensor(IDS)
    empty = np.zeros((2, 4, 0, 8), np.float32)
    past = {f"past_key_values.{i}.{part}": empty for i in (0, 1) for part in ("key", "value")}
    logits, *present = run(
        gpt2_home.directory,
        input_ids=ids.numpy(),
        attention_mask=np.ones((2, 6), np.int64),
        position_ids=np.tile(np.arange(6), (2, 1)),
        **past,
    )
    with torch.no_grad():
        stock = stock_answers(shallow("gpt2"), gpt2_adapter)(input_ids=ids).logits.numpy()
        plain = AutoModelForCausalLM.from_pretrained(shallow("gpt2"))(input_ids=ids).logits.numpy()
    assert np.abs(logits - stock).max() < 1e-4
    assert np.abs(logits - plain).max() > 0.01, "the adapter changes nothing here"
    assert [array.shape for array in present] == [(2, 4, 6, 8)] * 4


def test_the_example_generates_the_tokens_of_stock_transformers(
    shallow: Callable[[str], Path], gpt2_adapter: Path, gpt2_home: HomeResult
) -> None:
    model = stock_answers(shallow("gpt2"), gpt2_adapter)
    tokenizer = AutoTokenizer.from_pretrained(shallow("gpt2"))
    inputs = tokenizer("the rain in town", return_tensors="pt", return_token_type_ids=False)
    stock = model.generate(
        **inputs, max_new_tokens=16, min_new_tokens=16, do_sample=False, pad_token_id=0
    )
    found = generate(str(gpt2_home.directory), "the rain in town", 16)
    assert found == tokenizer.decode(stock[0], skip_special_tokens=True)


def test_the_example_says_how_it_is_used_and_what_it_needs(
    gpt2_home: HomeResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        assert left.value.code == 2
        return capsys.readouterr().err

    assert "Usage: python generate_on_device.py DIRECTORY" in refusal("--help")
    assert "export.json is missing" in refusal(str(tmp_path), "text")
    record = gpt2_home.record | {"kind": "whole", "task": "classification"}
    (tmp_path / "export.json").write_text(json.dumps(record))
    assert "holds a whole model for classification" in refusal(str(tmp_path), "text")
    (tmp_path / "splitfrozen.json").write_text("{}")
    assert "a bundle, which holds only the first blocks" in refusal(str(tmp_path), "text")
    main([str(gpt2_home.directory), "the rain"])
    assert capsys.readouterr().out.startswith("the rain")


def test_a_person_is_told_how_to_generate(gpt2_home: HomeResult, gpt2_adapter: Path) -> None:
    lines = gpt2_home.summary_lines()
    assert f"  adapter    merged from {gpt2_adapter}" in lines
    assert any(line.endswith(" tokens") and "same choice" in line for line in lines)
    assert lines[-1].startswith(
        f"Next: python examples/generate_on_device.py {gpt2_home.directory} "
    )


def test_a_tied_table_is_stored_once(
    shallow: Callable[[str], Path], gpt2_home: HomeResult, tmp_path: Path
) -> None:
    weights = gpt2_home.directory / "model.onnx.data"
    checkpoint = (shallow("gpt2") / "model.safetensors").stat().st_size
    table = 128 * 32 * 4
    assert weights.stat().st_size < checkpoint + table / 2


def test_transformers_reads_configuration_generation_and_tokenizer(
    shallow: Callable[[str], Path], gpt2_home: HomeResult
) -> None:
    config = AutoConfig.from_pretrained(gpt2_home.directory)
    assert (config.model_type, config.architectures) == ("gpt2", ["GPT2LMHeadModel"])
    assert config.use_cache and config.pad_token_id is None
    assert GenerationConfig.from_pretrained(gpt2_home.directory).eos_token_id == config.eos_token_id
    ours, theirs = (
        AutoTokenizer.from_pretrained(path) for path in (gpt2_home.directory, shallow("gpt2"))
    )
    assert ours("The 3 cats; naïve?").input_ids == theirs("The 3 cats; naïve?").input_ids


def test_the_record_names_what_was_merged_and_every_file(
    gpt2_home: HomeResult, gpt2_adapter: Path
) -> None:
    record = json.loads((gpt2_home.directory / "export.json").read_text())
    assert record["adapter"]["path"] == str(gpt2_adapter)
    written = {path.name for path in gpt2_home.directory.iterdir()} - {"export.json"}
    assert set(record["files"]) == written
    assert record["report"]["relative_error"] < 1e-5
    assert record["report"]["same_choice"] == 1
    assert "gpt2" in gpt2_home.summary_lines()[0]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_classifier_gives_the_logits_of_stock_peft(
    family: str, shallow: Callable[[str], Path], tmp_path: Path
) -> None:
    """Token 0 is a real token of GPT-2 and stands last in the longer text."""
    model = shallow(family)
    adapter = write_adapter(model, tmp_path / "adapter", "SEQ_CLS", layers=(1,))
    labels = ["bad", "good", "neither"]
    (adapter / "splitfrozen.json").write_text(json.dumps({"labels": labels}))
    result = take_home(model, tmp_path / "home", adapter=adapter, precision="fp32")
    stock = stock_answers(model, adapter, "SEQ_CLS")
    long, short = [7, 30, 41, 12, 99, 0], [55, 8, 61]
    with torch.no_grad():
        expected = [stock(input_ids=torch.tensor([ids])).logits[0].numpy() for ids in (long, short)]
    padded = np.array([long, short + [0] * 3])
    (logits,) = run(
        result.directory,
        input_ids=padded,
        attention_mask=np.array([[1] * 6, [1] * 3 + [0] * 3]),
        token_type_ids=np.zeros_like(padded),
    )
    assert np.abs(logits - np.stack(expected)).max() < 1e-4
    graph = onnx.load(result.directory / "model.onnx", load_external_data=False).graph
    unsplit = [node for node in graph.node for field in node.attribute if field.name == _HEADS]
    assert len(unsplit) == 2, "attention splits and swaps its heads by itself"
    config = AutoConfig.from_pretrained(result.directory)
    assert [config.id2label[index] for index in range(3)] == labels


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"max_error": 1e-9}, "relative error"),
        pytest.param({"max_loss_gap": -1.0}, "nats per token", marks=pytest.mark.long),
    ],
)
def test_an_export_that_is_too_far_off_leaves_nothing(
    limit: dict[str, float],
    reason: str,
    shallow: Callable[[str], Path],
    home_text: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out" / "home"
    with pytest.raises(SplitFrozenError, match=reason) as caught:
        take_home(shallow("gpt2"), output, precision="int8", eval=home_text, **limit)
    assert caught.value.code == "check_failed"
    assert list(output.parent.iterdir()) == []


def test_a_directory_of_something_else_is_never_replaced(
    shallow: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SplitFrozenError, match="choose another --output"):
        take_home(shallow("gpt2"), tmp_path, force=True)
    assert (tmp_path / "thesis.txt").is_file()


@pytest.mark.long
def test_an_int8_story_goes_on_like_the_fp32_one(
    stories: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Real weights: both continue sensibly, and agree on most greedy tokens."""
    tokenizer = AutoTokenizer.from_pretrained(stories)
    home = take_home(stories, tmp_path / "home", precision="int8").directory
    text = generate(str(home), "Once upon a time", 60)
    model = AutoModelForCausalLM.from_pretrained(stories).eval()
    inputs = tokenizer("Once upon a time", return_tensors="pt", return_token_type_ids=False)
    stock = model.generate(**inputs, max_new_tokens=60, min_new_tokens=60, do_sample=False)[0]
    ours = tokenizer(text, return_tensors="pt").input_ids[0]
    agreeing = int((ours[: len(stock)] == stock[: len(ours)]).long().cumprod(0).sum())
    record_property("agreeing_tokens", agreeing)
    assert "there was a little" in text
    assert agreeing >= 20
