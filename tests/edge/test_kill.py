"""A push that is killed at random points and started again: each example exactly once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from splitfrozen_edge.state import StateDirectory
from tests.edge.conftest import write_sentences
from tests.edge.protocol_server import Fault, ProtocolServer

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def push_command(state: StateDirectory, data: Path, bundle: Path) -> list[str]:
    options = f"--state-dir {state.path} --dataset d --data {data} --bundle {bundle} --threads 1"
    program = [sys.executable, "-m", "splitfrozen_edge", "push", *options.split()]
    return [*program, "--format", "json"]


def test_a_killed_push_ends_with_each_example_exactly_once(
    tmp_path: Path, server: ProtocolServer, state: StateDirectory, encoder_bundle: Path
) -> None:
    kill_until_done(tmp_path, server, state, encoder_bundle, kills=6, rows=400)


def test_a_push_that_the_policy_holds_asks_the_server_nothing(
    tmp_path: Path, server: ProtocolServer, state: StateDirectory, encoder_bundle: Path
) -> None:
    data = write_sentences(tmp_path / "data.jsonl", 3)
    now = datetime.now()
    hours = [f"{now + timedelta(hours=shift):%H:%M}" for shift in (-2, 2)]
    command = [*push_command(state, data, encoder_bundle), "--quiet-hours", "-".join(hours)]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"waits: quiet hours are" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert b"interrupted" in process.stderr.read()
    assert (process.returncode, server.requests) == (130, [])


@pytest.mark.long
def test_twenty_kills_end_with_each_example_exactly_once(
    tmp_path: Path, server: ProtocolServer, state: StateDirectory, encoder_bundle: Path
) -> None:
    kill_until_done(tmp_path, server, state, encoder_bundle, kills=20, rows=100)


def kill_until_done(
    tmp_path: Path,
    server: ProtocolServer,
    state: StateDirectory,
    bundle: Path,
    *,
    kills: int,
    rows: int,
) -> None:
    """Kill a push somewhere between its first request and its end, then let one finish.

    The file grows before each try, so that every try has something to do.
    """
    moments = random.Random(3)
    alive = 0
    for number in range(1, kills + 1):
        data = write_sentences(tmp_path / "data.jsonl", rows * number)
        server.requests.clear()
        server.script("PUT", *[Fault(moments.choice(["after", "before", "refuse"]))] * 2)
        with subprocess.Popen(
            push_command(state, data, bundle), env=ENVIRONMENT, stdout=subprocess.DEVNULL
        ) as process:
            while not server.requests and process.poll() is None:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.6))
            process.send_signal(signal.SIGKILL)
        alive += process.returncode == -signal.SIGKILL
    assert alive >= kills // 3  # the others had ended by themselves
    server.faults.clear()
    done = subprocess.run(
        push_command(state, data, bundle), env=ENVIRONMENT, stdout=subprocess.PIPE, check=True
    )
    report = json.loads(done.stdout)
    found = server.example_ids(report["dataset_id"])
    assert len(found) == len(set(found)) == rows * kills
    assert report["duplicates"] == 0


def test_an_interrupt_ends_with_130_and_the_same_command_continues(
    tmp_path: Path, server: ProtocolServer, state: StateDirectory, encoder_bundle: Path
) -> None:
    data = write_sentences(tmp_path / "data.jsonl", 300)
    server.script("PUT", *[Fault("refuse", 503, retry_after="60")] * 99)
    with subprocess.Popen(
        push_command(state, data, encoder_bundle), env=ENVIRONMENT, stderr=subprocess.PIPE
    ) as process:
        while not server.bodies():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert b"interrupted; the same command continues" in process.stderr.read()
    assert process.returncode == 130
    server.faults.clear()
    subprocess.run(push_command(state, data, encoder_bundle), env=ENVIRONMENT, check=True)
    (dataset,) = server.shards
    found = server.example_ids(dataset)
    assert len(found) == len(set(found)) == 300
