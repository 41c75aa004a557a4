"""SIGKILL between every two steps of a shard's life, alone and in pairs: exactly once afterwards.

In each round one shard is taken as it is, one has examples that the server knows already, and one
is refused until the end: all of enqueue, send, acknowledge, replace and park happens.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitfrozen import Shard, read_bundle
from splitfrozen.identity import example_id
from splitfrozen_edge.outbox.points import POINTS
from splitfrozen_edge.state import StateDirectory
from tests.edge.conftest import write_sentences
from tests.edge.protocol_server import ProtocolServer, Refusal
from tests.edge.tiny_bundle import CUT, WIDTH

ROWS = 280  # three shards
SIGKILL = -9


@dataclass
class Driver:
    """The driver program and what it runs."""

    process: subprocess.Popen[str]
    state: StateDirectory
    command: list[str]
    asked: int = 0

    def push(self, point: str | None) -> int:
        """Exit status of a push that dies at `point`."""
        return self.run(point, self.command)

    def run(self, point: str | None, arguments: list[str]) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"point": point, "args": arguments}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.asked += 1
        assert "Traceback" not in answer["output"], answer["output"]
        return int(answer["status"])


@dataclass
class Round:
    """One dataset whose server knows two rows and refuses one for the time being."""

    server: ProtocolServer
    driver: Driver
    dataset: str
    rows: set[bytes]
    refused: bytes
    before: dict[str, Shard] = field(default_factory=dict)

    def check(self, _: dict[str, Any], shard: Shard) -> None:
        """In place of the server's own: the same, and one row that is refused."""
        assert shard.example_ids is not None
        found = {row.tobytes() for row in shard.example_ids}
        known = found & set(self.server.example_ids(self.dataset))
        if known:
            raise Refusal("duplicate_example", example_ids=sorted(i.hex() for i in known))
        if self.refused in found:
            raise Refusal("bad_lengths", "this row is refused")

    def finish(self) -> None:
        """Push to the end: all rows but those of the refused shard are there, each once."""
        assert self.driver.push(None) == 3
        stored = self.server.example_ids(self.dataset)
        assert len(stored) == len(set(stored)) < ROWS
        outbox = self.driver.state.outbox()
        (parked,) = outbox.entries()
        assert outbox.known_examples(self.dataset) == self.rows
        outbox.close()
        assert (parked.state, parked.code) == ("refused", "bad_lengths")
        assert parked.examples + len(stored) == ROWS

    def mend(self) -> None:
        """The server takes the refused row after all: every row is there once."""
        refused, self.refused = self.refused, b""
        home = ["--state-dir", str(self.driver.state.path)]
        assert self.driver.run(None, ["queue", "retry", *home]) == 0
        assert self.driver.push(None) == 0
        self.refused = refused
        stored = self.server.example_ids(self.dataset)
        assert len(stored) == ROWS
        assert set(stored) == self.rows


@pytest.fixture
def driver(tmp_path: Path, state: StateDirectory, encoder_bundle: Path) -> Iterator[Driver]:
    data = write_sentences(tmp_path / "data.jsonl", ROWS)
    options = f"--state-dir {state.path} --dataset d --data {data} --bundle {encoder_bundle}"
    with subprocess.Popen(
        [sys.executable, "-m", "tests.edge.crash_driver"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield Driver(process, state, ["push", *options.split(), "--threads", "1", "--quiet"])
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def fresh(tmp_path: Path, server: ProtocolServer, driver: Driver, encoder_bundle: Path) -> Round:
    dataset = server.add_dataset("d", "classification", ["good"])
    key = driver.state.key()
    lines = (tmp_path / "data.jsonl").read_text().splitlines()
    ids = [example_id(key, dataset, json.loads(line), 0) for line in lines]
    shard = Shard(
        bundle=read_bundle(encoder_bundle).id,
        dataset=dataset,
        cut=CUT,
        codec="int8",
        task="classification",
        hidden=np.zeros((2, WIDTH), np.int8),
        lengths=np.ones(2, np.int32),
        scale=np.zeros((2, 1), np.float16),
        example_ids=np.frombuffer(ids[150] + ids[277], np.uint8).reshape(2, 16),
        labels=np.zeros(2, np.int32),
    )
    found = Round(server, driver, dataset, set(ids), refused=ids[60], before={"0": shard})
    server._check = found.check  # type: ignore[method-assign]
    return found


def start(round_: Round, home: Path | None = None, shards: dict[str, Shard] | None = None) -> None:
    """Device and server as they were: at the beginning, or as a copy says."""
    round_.server.requests.clear()
    path = round_.driver.state.path
    for old in path.glob("outbox.sqlite3*"):
        old.unlink()
    if home is not None:
        shutil.copytree(home, path, dirs_exist_ok=True)
    round_.server.shards[round_.dataset] = dict(round_.before if shards is None else shards)


def test_a_kill_at_some_of_the_23_points_ends_with_every_row_exactly_once(fresh: Round) -> None:
    print(f"{len(POINTS)} crash points")
    assert len(POINTS) == len(set(POINTS)) == 23
    for point in POINTS[1::3]:
        start(fresh)
        assert fresh.driver.push(point) == SIGKILL, point
        fresh.finish()
    fresh.mend()


@pytest.mark.long
def test_all_pairs_of_kills_end_with_every_row_exactly_once(fresh: Round, tmp_path: Path) -> None:
    path, second = fresh.driver.state.path, 0
    for first in POINTS:
        start(fresh)
        assert fresh.driver.push(first) == SIGKILL
        home = tmp_path / first
        shutil.copytree(path, home)
        shards = dict(fresh.server.shards[fresh.dataset])
        for point in POINTS:
            start(fresh, home, shards)
            second += fresh.driver.push(point) == SIGKILL
            fresh.finish()
        fresh.mend()
    print(f"{len(POINTS) ** 2} pairs, {second} of them with two kills, {fresh.driver.asked} runs")
    assert second > len(POINTS) ** 2 / 2  # the others had nothing left to do at that point
