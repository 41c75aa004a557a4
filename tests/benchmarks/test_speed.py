"""The speed benchmark: its processes, its turns, its numbers. No test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.edge_speed import figures, table
from benchmarks.real_inputs import REPOSITORY
from benchmarks.speed.contenders import CONTENDERS, choose, install
from benchmarks.speed.crew import ContenderError, start
from benchmarks.speed.rounds import Row, play, ratio
from benchmarks.speed.worker import make_ids


class _Recorder:
    """A contender that notes its turns."""

    def __init__(self, name: str, turns: list[str], cpu: float, *, stops_after: int = 99) -> None:
        self.name, self.samples = name, dict[int, list[tuple[float, float]]]()
        self._turns, self._cpu, self._left = turns, cpu, stops_after

    def run(self, batch: int, times: int) -> tuple[float, float]:
        if not self._left:
            raise ContenderError("out of memory")
        self._left -= 1
        self._turns.append(self.name)
        return self._cpu * batch, self._cpu * batch


def _play(members: list[_Recorder], rounds: int) -> dict[str, str]:
    return play(members, rounds, [1], lambda _: None)  # type: ignore[arg-type]


def test_every_contender_runs_once_in_every_round_and_the_order_turns() -> None:
    turns: list[str] = []
    members = [_Recorder(name, turns, 1.0) for name in "abc"]
    assert _play(members, 3) == {}
    assert "".join(turns[3:]) == "abc" + "bca" + "cab"  # the first three find how often to run
    assert all(len(member.samples[1]) == 3 for member in members)


def test_a_contender_that_stops_is_left_out_with_its_reason() -> None:
    turns: list[str] = []
    members = [_Recorder("a", turns, 1.0), _Recorder("b", turns, 1.0, stops_after=2)]
    assert _play(members, 3) == {"b": "out of memory"}
    assert [member.name for member in members] == ["a"]
    assert len(members[0].samples[1]) == 3


def test_a_ratio_compares_within_rounds() -> None:
    slow = SimpleNamespace(samples={1: [(3.0, 0), (30.0, 0), (6.0, 0)]})  # one noisy round
    fast = SimpleNamespace(samples={1: [(1.0, 0), (10.0, 0), (2.0, 0)]})
    assert ratio(slow, fast, 1) == 3.0  # type: ignore[arg-type]


def test_the_best_invariant_peer_is_the_fastest_whose_rows_do_not_shift() -> None:
    seconds = {"int8": 1.0, "ort-fp32": 3.0, "torch-eager": 6.0, "ort-quantize-dynamic": 0.9}
    members: Any = [
        SimpleNamespace(name=name, samples={1: [(cpu, cpu)]}) for name, cpu in seconds.items()
    ]
    rows = [_row(name, 0.5 if name == "ort-quantize-dynamic" else 0.0) for name in seconds]
    found = figures(members, rows)
    assert found["best_invariant_peer"] == "ort-fp32"
    assert found["int8_vs_best_invariant_peer"] == found["int8_vs_ort_fp32"] == 3.0
    assert found["int8_vs_torch_eager"] == 6.0
    assert found["int8_vs_quantize_dynamic"] == 0.9


def test_what_did_not_run_has_no_ratio() -> None:
    members: Any = [SimpleNamespace(name="int8", samples={1: [(1.0, 1.0)]})]
    found = figures(members, [_row("int8", 0.0)])
    assert found["int8_vs_torch_eager"] is None
    assert found["int8_vs_best_invariant_peer"] is None
    assert found["int8_batch_shift"] == 0.0


def test_the_first_row_is_the_same_for_every_batch_size() -> None:
    assert (make_ids(1, 16, 300) == make_ids(8, 16, 300)[:1]).all()


def test_an_unknown_peer_is_named_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"no peer is called 'torhc'; there are .*torch-eager"):
        choose("torhc")
    assert len(choose("all")) == len(CONTENDERS)
    assert [contender.name for contender in choose("none")] == ["int8", "int4", "fp32"]


def test_packages_that_cannot_be_installed_are_a_reason(tmp_path: Path) -> None:
    (tmp_path / "no-folder").write_text("")
    with pytest.raises(RuntimeError, match=r"^pip: .*no-folder"):
        install("torchao", tmp_path / "no-folder" / "cache")


def test_a_contender_that_cannot_start_says_why(tmp_path: Path) -> None:
    arguments = ["onnx_runner", "int8", str(tmp_path / "absent"), "1", "x", "1", "8"]
    with pytest.raises(ContenderError, match="FileNotFoundError"):
        start("int8", arguments, {"PYTHONPATH": str(REPOSITORY)}, tmp_path)


@pytest.mark.long
def test_the_command_measures_a_tiny_model_and_ends_in_one_json_object() -> None:
    finished = subprocess.run(
        [
            sys.executable,
            "benchmarks/edge_speed.py",
            *("--model-shape", "tiny", "--cut", "2", "--quick"),
            *("--peers", "ort-fp32,ort-quantize-dynamic"),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, last = finished.stdout.splitlines()
    found = json.loads(last)
    assert found["int8_batch_shift"] == 0.0
    assert found["int8_vs_ort_fp32"] > 0
    assert found["int8_vs_quantize_dynamic"] > 0
    assert found["int8_vs_torch_eager"] is None
    assert set(found["bundle_mb"]) == {"fp32", "int8", "int8-hq", "int4", "int4-all"}
    assert found["peers"]["ort-quantize-dynamic"] == "ran"
    assert {row["name"] for row in found["rows"]} == {name for name in found["peers"]}
    assert sum(line.startswith("| int8 |") for line in lines) == 1


def _row(name: str, shift: float) -> Row:
    cells = {"1x128": 1.0}
    return Row(name, cells, cells, cells, 1.0, 1.0, 1.0, None, shift)


def test_the_table_has_a_line_for_every_contender() -> None:
    lines = table([_row("int8", 0.0), _row("ort-fp32", 0.0)]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["int8", "ort-fp32"]
