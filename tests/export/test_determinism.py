"""The same export twice is the same bundle, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from splitfrozen import read_bundle
from tests.export.commands import start

TEXTS = ("the boat is on the river", "and a dog looks at the other boat", "what a day it was")


@pytest.mark.parametrize(
    "graphs", [["--no-generation"], pytest.param([], marks=pytest.mark.long)], ids=["one", "both"]
)
def test_hash_seeds_threads_and_places_leave_no_trace_in_a_bundle(
    tiny_model: Callable[[str], Path], tmp_path: Path, graphs: list[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    text = tmp_path / "held-out.txt"
    text.write_text(" ".join(TEXTS) * 20)
    wanted = ["--model", tiny_model("llama"), "--cut", 1, "--prove", "twin", "--calibrate", rows]
    wanted += ["--eval", text, "--max-loss-gap", 10, "--precision", "int8"]
    exports = [
        start(
            *wanted,
            *graphs,
            "--output",
            tmp_path / f"place{number}" / "bundle",
            PYTHONHASHSEED=number,
            OMP_NUM_THREADS=number,
        )
        for number in (1, 2)
    ]
    for process in exports:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    one, two = (read_bundle(tmp_path / f"place{number}" / "bundle") for number in (1, 2))
    names = sorted(path.name for path in one.directory.iterdir())
    assert ("device_with_past.onnx" in names) != bool(graphs)
    assert names == sorted(path.name for path in two.directory.iterdir())
    for name in names:
        assert (one.directory / name).read_bytes() == (two.directory / name).read_bytes(), name
    assert str(tmp_path) not in (one.directory / "splitfrozen.json").read_text()
