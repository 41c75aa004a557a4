"""`inspect` says what a bundle is, quickly, and what it will need."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from splitfrozen_export.tools.bench import bench_bundle
from splitfrozen_export.tools.opened import open_graph
from splitfrozen_export.tools.overview import read_overview, wire_bytes
from tests.edge.tiny_bundle import WIDTH
from tests.export.tools.conftest import Done, run_main
from tests.tiny_tokenizer import TINY_VOCAB

Run = Callable[..., Done]
PROGRAM = "from splitfrozen_export.tools.cli import main; main()"


def test_an_exported_bundle_is_described_by_what_its_graph_holds(
    run: Run, exported: Callable[[str], Path]
) -> None:
    found = json.loads(run("inspect", exported("opt"), "--format", "json").output)
    assert (found["base_model"], found["family"], found["architecture"]) == (
        "opt",
        "opt",
        "decoder",
    )
    assert (found["cut"], found["precision"], found["wire"]) == (1, "int8", "int8")
    graph = found["graphs"]["device.onnx"]
    assert graph["products"] == {"float": 0, "int8": 6, "int4": 0}
    assert graph["tables"] == {"float": 0, "int8": 2, "int4": 0}
    assert sum(graph["ops"].values()) == graph["nodes"] > 50
    assert (
        found["files"]["device.onnx.data"] == (exported("opt") / "device.onnx.data").stat().st_size
    )
    assert found["report"]["relative_error"] > 0
    assert found["cache_bytes_per_token"] == 2 * 32 * 4  # key and value of one block, float32


def test_a_person_reads_the_same_in_words(run: Run, exported: Callable[[str], Path]) -> None:
    done = run("inspect", exported("opt"))
    assert done.code == 0
    for words in ("blocks 0..0 of 4", "6 int8", "% off the fp32 model", "not at all", "Memory"):
        assert words in done.output, words


def test_weights_are_counted_whatever_their_coding(small: Path) -> None:
    assert open_graph(small / "device.onnx").parameters() == TINY_VOCAB * WIDTH


@pytest.mark.parametrize(
    ("codec", "width", "size"),
    [("fp32", 384, 1536), ("bf16", 384, 768), ("int8", 384, 396), ("int8", 100, 104)],
)
def test_bytes_on_the_wire_follow_the_protocol(codec: str, width: int, size: int) -> None:
    assert wire_bytes(codec, width) == size


def test_bytes_on_the_wire_are_those_of_a_real_shard() -> None:
    import numpy as np

    from splitfrozen.quantize import encode_hidden

    hidden = np.random.default_rng(0).standard_normal((3, 200)).astype(np.float32)
    for codec in ("fp32", "bf16", "int8"):
        coded, scale = encode_hidden(codec, hidden)
        assert coded.nbytes + (0 if scale is None else scale.nbytes) == 3 * wire_bytes(codec, 200)


def test_looking_into_a_bundle_loads_neither_torch_nor_onnxruntime(small: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-c", PROGRAM, "inspect", str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "onnx" in loaded
    assert not loaded & {"torch", "transformers", "onnxruntime", "httpx", "cryptography"}


def test_what_is_no_bundle_is_said_to_be_none(run: Run, tmp_path: Path) -> None:
    done = run("inspect", tmp_path)
    assert done.code == 1
    assert "is no bundle: it has no splitfrozen.json" in done.errors


def test_a_graph_that_cannot_be_read_is_named(run: Run, copy: Path) -> None:
    (copy / "device.onnx").write_bytes(b"\xff" * 100)
    done = run("inspect", copy)
    assert done.code == 1
    assert "device.onnx is no ONNX graph" in done.errors


@pytest.mark.long
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_memory_is_estimated_within_a_factor_of_one_and_a_half(
    minilm: Path, tmp_path: Path, precision: str
) -> None:
    """Against a process that runs the graph on ids from the whole vocabulary."""
    from splitfrozen_export import cli as export_cli

    target = tmp_path / precision
    wanted = ["--model", minilm, "--cut", 4, "--precision", precision, "--prove", "twin"]
    assert run_main(export_cli.main, *wanted, "--output", target).code == 0
    estimate = read_overview(target).memory
    (measured,) = bench_bundle(target, (1,), 2)["runs"]
    for shape, row in measured["shapes"].items():
        ratio = estimate.peak(shape) / row["memory_peak"]
        assert 1 / 1.5 < ratio < 1.5, (shape, ratio)
