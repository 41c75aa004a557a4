"""The outbox's life cycle against a dictionary, in any order of steps, with kills in between."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from splitfrozen_edge.outbox.store import NewShard, Outbox

DATASETS = ("a", "b")


@dataclass
class Shard:
    """What the model knows of a shard."""

    dataset: str
    body: bytes
    examples: set[bytes]
    state: str = "queued"  # queued | parked | settled
    code: str = ""


class OutboxMachine(RuleBasedStateMachine):
    """Every rule does one thing to both."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "outbox"
        self.outbox = Outbox(self.path)
        self.model: dict[str, Shard] = {}  # digest -> shard, oldest first
        self.count = 0

    def teardown(self) -> None:
        """Remove the files."""
        self.outbox.close()
        shutil.rmtree(self.directory)

    def known(self, dataset: str) -> set[bytes]:
        return {e for s in self.model.values() if s.dataset == dataset for e in s.examples}

    def waiting(self, *states: str) -> list[str]:
        return [digest for digest, shard in self.model.items() if shard.state in states]

    def new_shard(self, examples: set[bytes]) -> NewShard:
        self.count += 1
        body = f"body {self.count}".encode() * self.count
        return NewShard(f"{self.count:064x}", body, sorted(examples), self.count)

    @rule(dataset=st.sampled_from(DATASETS), numbers=st.sets(st.integers(0, 30), min_size=1))
    def put(self, dataset: str, numbers: set[int]) -> None:
        """A shard with a known example is refused as a whole, unless its bundle is gone."""
        examples = {bytes([number]) * 16 for number in numbers}
        movable = {
            e for s in self.model.values() if s.dataset == dataset and s.code == "unknown_bundle"
            for e in s.examples
        }  # fmt: skip
        shard = self.new_shard(examples)
        if examples & (self.known(dataset) - movable):
            with pytest.raises(sqlite3.IntegrityError):
                self.outbox.put(dataset, shard)
            return
        self.outbox.put(dataset, shard)
        for digest, old in list(self.model.items()):
            if old.dataset == dataset and old.code == "unknown_bundle":
                old.examples -= examples
                if not old.examples:
                    del self.model[digest]
        self.model[shard.digest] = Shard(dataset, shard.body, examples)

    @precondition(lambda self: self.waiting("queued"))
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        """A receipt for any queued shard."""
        digest = data.draw(st.sampled_from(self.waiting("queued")))
        self.outbox.ack(digest)
        self.model[digest].state = "settled"

    @precondition(lambda self: self.waiting("queued"))
    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        """The server knew some examples of a shard."""
        digest = data.draw(st.sampled_from(self.waiting("queued")))
        old = self.model[digest]
        rest = data.draw(st.sets(st.sampled_from(sorted(old.examples)))) & old.examples
        shard = self.new_shard(rest) if rest else None
        self.outbox.replace(digest, shard)
        old.state = "settled"
        if shard is not None:
            old.examples -= rest
            self.model[shard.digest] = Shard(old.dataset, shard.body, rest)

    @precondition(lambda self: self.waiting("queued"))
    @rule(data=st.data(), code=st.sampled_from(["bad_shape", "unknown_bundle"]))
    def park(self, data: st.DataObject, code: str) -> None:
        """The server refused a shard for good."""
        digest = data.draw(st.sampled_from(self.waiting("queued")))
        self.outbox.park(digest, code, "no", bundle="old")
        self.model[digest].state, self.model[digest].code = "parked", code

    @rule(dataset=st.sampled_from(DATASETS))
    def park_all(self, dataset: str) -> None:
        """A dataset was sealed."""
        self.outbox.park_all(dataset, "dataset_sealed", "no")
        for digest in self.waiting("queued"):
            if self.model[digest].dataset == dataset:
                self.model[digest].state = "parked"
                self.model[digest].code = "dataset_sealed"

    @rule(dataset=st.sampled_from([None, *DATASETS]))
    def retry(self, dataset: str | None) -> None:
        """Parked shards are sent again; what they lost to another shard stays there."""
        chosen = [d for d in self.waiting("parked") if dataset in (None, self.model[d].dataset)]
        assert self.outbox.retry(dataset)[0] == len(chosen)
        for digest in chosen:
            self.model[digest].state, self.model[digest].code = "queued", ""

    @rule(dataset=st.sampled_from([None, *DATASETS]), parked=st.booleans())
    def drop(self, dataset: str | None, parked: bool) -> None:
        """Given up: as if never computed."""
        states = ("parked",) if parked else ("parked", "queued")
        chosen = [d for d in self.waiting(*states) if dataset in (None, self.model[d].dataset)]
        assert self.outbox.drop(dataset, parked=parked)[0] == len(chosen)
        for digest in chosen:
            del self.model[digest]

    @rule(dataset=st.sampled_from(DATASETS))
    def forget(self, dataset: str) -> None:
        """A dataset is gone."""
        self.outbox.forget(dataset)
        self.model = {d: s for d, s in self.model.items() if s.dataset != dataset}

    @rule()
    def reopen(self) -> None:
        """A clean end."""
        self.outbox.close()
        self.outbox = Outbox(self.path)
        assert self.outbox.notice is None

    @rule(point=st.sampled_from(["put", "ack", "park"]))
    def kill(self, point: str) -> None:
        """A process dies within a transaction: nothing of it is there afterwards."""
        self.outbox.close()
        child = os.fork()
        if child == 0:
            die_within(self.path, point, self.waiting("queued"))
        os.waitpid(child, 0)
        self.outbox = Outbox(self.path)
        assert self.outbox.notice is None

    @invariant()
    def same(self) -> None:
        """Order, states, bodies and known examples agree."""
        for dataset in DATASETS:
            assert self.outbox.known_examples(dataset) == self.known(dataset)
            mine = [d for d in self.waiting("queued") if self.model[d].dataset == dataset]
            first = self.outbox.next(dataset)
            assert (first.digest if first else None) == (mine[0] if mine else None)
            assert first is None or first.body == self.model[mine[0]].body
        found = [(entry.digest, entry.state) for entry in self.outbox.entries()]
        states = {"queued": "queued", "parked": "refused"}
        waiting = self.waiting("queued", "parked")
        assert found == [(digest, states[self.model[digest].state]) for digest in waiting]
        assert self.outbox.queued_bytes() == sum(len(self.model[d].body) for d in waiting)


def die_within(path: Path, point: str, queued: list[str]) -> None:
    """End the process where a kill would, with the transaction open."""
    from splitfrozen_edge.outbox import points

    names = {"put": "enqueue.examples", "ack": "ack.shard", "park": "park.shard"}
    points.install(lambda name: os._exit(9) if name == names[point] else None)
    try:
        outbox = Outbox(path)
        if point == "put":
            outbox.put("a", NewShard("e" * 64, b"x", [b"new example  1234"], 1))
        elif queued and point == "ack":
            outbox.ack(queued[0])
        elif queued:
            outbox.park(queued[0], "x", "y")
    finally:
        os._exit(0)


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)


class LongOutboxMachine(OutboxMachine):
    """The same for longer."""


TestOutboxForLong = pytest.mark.long(LongOutboxMachine.TestCase)
TestOutboxForLong.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
