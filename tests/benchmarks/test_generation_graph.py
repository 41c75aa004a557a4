"""The command that measures the graph for generation; it sees what a single row changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.generation_graph import differing, write_graphs
from benchmarks.real_inputs import REPOSITORY
from benchmarks.speed.generation import WAYS
from splitfrozen.graph import DEVICE_GRAPH, DEVICE_WEIGHTS, DEVICE_WITH_PAST, HIDDEN


def test_without_the_second_row_tokens_fed_alone_differ_and_with_it_none(
    shared_models: Path, tmp_path: Path
) -> None:
    plain, kept = write_graphs(shared_models / "stories260K", 1, "int8-hq", tmp_path)
    assert differing(plain, 512, texts=1, tokens=16)[HIDDEN] > 0
    assert set(differing(kept, 512, texts=1, tokens=16).values()) == {0.0}


@pytest.mark.long
def test_the_command_measures_both_graphs_and_ends_in_one_json_object() -> None:
    command = [sys.executable, "-m", "benchmarks.generation_graph", "--model-shape", "tiny"]
    done = subprocess.run(
        [*command, "--cut", "2", "--rounds", "2"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["bytes"]) == {DEVICE_GRAPH, DEVICE_WEIGHTS, DEVICE_WITH_PAST}
    assert set(found["memory_mb"]) == {*WAYS, *(f"{way}, no prepacking" for way in WAYS)}
    for memory in found["memory_mb"].values():
        assert 30 < memory["before"] < 150, "a device imports neither torch nor Transformers"
        assert memory["anonymous"] < memory["rss"] < 200
    assert len(found["milliseconds"]) == 5
    assert all(value > 0 for value in found["milliseconds"].values())
    assert set(found["differing"]["two rows"].values()) == {0.0}
