"""The command that compares exports of whole models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.real_inputs import REPOSITORY
from benchmarks.whole_model import export


def measure(*options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.whole_model", "--model-shape", "tiny", *options]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_an_exporter_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        export([sys.executable, "-c", "raise SystemExit('no such model')"], tmp_path)


@pytest.mark.long
def test_the_command_measures_our_exports() -> None:
    exports = measure("--no-optimum", "--no-errors")["exports"]
    assert set(exports) == {"ours fp32", "ours int8"}
    fp32, int8 = exports["ours fp32"], exports["ours int8"]
    assert int8["graph_mb"] < fp32["graph_mb"]
    assert fp32["nodes"] < int8["nodes"]
    assert all(row["peak_mb"] > 100 and row["cpu_seconds"] > 0 for row in exports.values())


@pytest.mark.long
@pytest.mark.timeout(1800)  # the first run downloads packages
def test_optimum_exports_the_same_model_with_more_nodes() -> None:
    exports = measure("--no-errors")["exports"]
    assert exports["optimum fp32"]["nodes"] > exports["ours fp32"]["nodes"]
    assert exports["optimum fp32"]["graph_mb"] > 0.5
