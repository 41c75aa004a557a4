"""The command that holds estimated memory against measured."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.real_inputs import REPOSITORY


def test_the_command_compares_both_shapes_and_ends_in_one_json_object() -> None:
    command = [sys.executable, "-m", "benchmarks.memory_estimate", "--model-shape", "tiny"]
    done = subprocess.run(
        [*command, "--cut", "1", "--precision", "int8"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    *lines, last = done.stdout.splitlines()
    found = json.loads(last)
    assert [row["shape"] for row in found["rows"]] == ["1x128", "8x128"]
    small, large = found["rows"]
    assert 30 < small["measured_mb"] <= large["measured_mb"] < 200
    assert small["estimate_mb"] < large["estimate_mb"]
    assert small["ratio"] == round(small["estimate_mb"] / small["measured_mb"], 2)
    assert found["least"] <= small["ratio"] <= found["most"]
    assert len(lines) == 2 + 2
