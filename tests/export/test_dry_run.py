"""--dry-run tells sizes that come true, and touches neither weights nor the output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from splitfrozen_export.estimate import data_bytes, segment_weights
from splitfrozen_export.precision.quantize import PRECISIONS, Recipe, default_embedding
from splitfrozen_export.split import resolve_model
from tests.export.commands import run
from tests.export.conftest import Traced


def test_a_plan_needs_no_weights_and_writes_nothing(
    tiny_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model("opt"), model)
    (model / "model.safetensors").write_bytes(b"no weights at all")
    wanted = ["--model", model, "--cut", 1, "--output", tmp_path / "bundle", "--dry-run"]
    assert run(*wanted, "--format", "json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["family"], plan["cut"], plan["num_layers"]) == ("opt", 1, 4)
    assert plan["wire_bytes_per_token"] == {"fp32": 128, "bf16": 64, "int8": 34}
    assert plan["segment_fp32_bytes"] == 4 * plan["segment_parameters"]
    assert plan["download_bytes"] == {}
    assert run(*wanted) == 0
    assert "Dry run: nothing is read or written." in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_sizes_come_true(stories: Path, traced_stories: Traced, precision: str) -> None:
    recipe = Recipe(precision, default_embedding(precision))
    expected = data_bytes(segment_weights(resolve_model(stories), 2), recipe)
    found = traced_stories.graph(precision).parent / "device.onnx.data"
    assert found.stat().st_size == pytest.approx(expected, rel=0.15)  # small: padding shows


@pytest.mark.long
def test_the_sizes_of_a_larger_model_come_true_within_percents(
    traced_minilm: Callable[[int], Traced], minilm: Path
) -> None:
    weights = segment_weights(resolve_model(minilm), 4)
    for precision in ("fp32", "int8"):
        recipe = Recipe(precision, default_embedding(precision))
        found = traced_minilm(4).graph(precision).parent / "device.onnx.data"
        assert found.stat().st_size == pytest.approx(data_bytes(weights, recipe), rel=0.02)


def test_a_layer_that_stays_fp32_is_counted_as_such(stories: Path) -> None:
    weights = segment_weights(resolve_model(stories), 2)
    plain = data_bytes(weights, Recipe("int8", "int8"))
    kept = data_bytes(weights, Recipe("int8", "int8", keep_fp=frozenset({"mlp.down_proj"})))
    inputs, outputs = next(w.shape for w in weights if w.name.endswith("0.mlp.down_proj.weight"))
    assert kept - plain == 2 * (4 * inputs * outputs - outputs * (inputs + 4))


@pytest.mark.parametrize("mode", [["--dry-run"], []])
def test_a_mixture_of_experts_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: list[str]
) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("mixtral", num_hidden_layers=3, num_local_experts=4)
    config.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no weights at all")
    wanted = ["--model", tmp_path / "model", "--cut", 1, "--output", tmp_path / "bundle"]
    assert run(*wanted, *mode) == 2
    assert "mixture of 4 experts" in capsys.readouterr().err


def test_a_dry_run_leaves_even_what_a_killed_export_left(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    leftover = tmp_path / ".bundle.00000000.draft"
    leftover.mkdir()
    wanted = ["--model", tiny_model("opt"), "--cut", 1, "--output", tmp_path / "bundle"]
    assert run(*wanted, "--dry-run") == 0
    assert leftover.is_dir()


def test_a_layer_that_does_not_exist_is_refused_at_once(
    tiny_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["--model", tiny_model("opt"), "--cut", 1, "--output", tmp_path / "bundle"]
    assert run(*wanted, "--dry-run", "--keep-fp", "no.such.layer") == 2
    assert "no layer is called 'no.such.layer'" in capsys.readouterr().err
    assert run(*wanted, "--dry-run", "--keep-fp", "fc1") == 0
