"""The command that says where a generated token's time goes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.real_inputs import REPOSITORY
from benchmarks.split_generation import shares


def test_what_neither_the_device_nor_the_server_took_is_the_way() -> None:
    timing = {
        "prefill_device": 0.2, "prefill_wait": 1.3, "steps": 9, "step_device": 0.9,
        "step_wait": 2.7,
    }  # fmt: skip
    document = {"timing": timing, "usage": {"prompt_tokens": 50}}
    found = shares(document, served=3.0, count=10)
    assert found["token_ms"] == 400
    assert (found["token_device_ms"], found["token_way_ms"]) == (100, 100)
    assert found["token_server_ms"] == 200
    assert (found["device_share"], found["way_share"], found["server_share"]) == (0.25, 0.25, 0.5)


@pytest.mark.long
def test_the_command_ends_in_one_json_object(shared_models: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.split_generation", "--rounds", "1", "--cut", "2"]
    done = subprocess.run(
        [*command, "--model", shared_models / "stories260K", "--words", "20", "--tokens", "8"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    parts = [found[f"{part}_share"] for part in ("device", "way", "server")]
    assert sum(parts) == pytest.approx(1, abs=0.01)
    assert found["token_device_ms"] > 0
