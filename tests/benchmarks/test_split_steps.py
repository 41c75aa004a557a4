"""The command that measures the server's steps, on a tiny model: every figure is there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.real_inputs import REPOSITORY


@pytest.mark.long
def test_the_command_measures_steps_streams_and_the_first_token() -> None:
    command = [sys.executable, "-m", "benchmarks.split_steps", "--model-shape", "tiny"]
    options = ["--cut", "1", "--streams", "3", "--prompt", "16", "--tokens", "4", "--rounds", "2"]
    done = subprocess.run(
        [*command, *options], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["model"], found["cut"], found["streams"]) == ("tiny", 1, 3)
    for name in ("step_ms", "tokens_s_1", "tokens_s_3", "first_token_ms", "whole_first_token_ms"):
        assert found[name] > 0
