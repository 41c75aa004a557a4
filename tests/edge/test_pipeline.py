"""The stages of a push by themselves: order, limits, a server that is away, a stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splitfrozen import decode, digest, read_bundle
from splitfrozen.errors import ModelError, RefusedError
from splitfrozen_edge.data.preprocess import Encoded
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_edge.outbox.store import Entry, NewShard, Outbox
from splitfrozen_edge.progress import Silent
from splitfrozen_edge.pushing.collect import Example, Outputs, ShardHeader
from splitfrozen_edge.pushing.pipeline import Pipeline, Stopped
from splitfrozen_edge.state import StateDirectory
from tests.edge.protocol_server import Fault, ProtocolServer
from tests.edge.tiny_bundle import embedding, write_bundle

ROWS = 500  # 4 shards
LATER = 9  # the batch before which the first shard is full


class Recorder(Outbox):
    """Notes how much waits whenever something was queued."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.seen: list[tuple[int, int]] = []  # (shards, bytes)

    def put(self, dataset: str, shard: NewShard) -> None:
        """Queue, then note; the upload may have taken some away by then, never added."""
        before = self.queued()[0], self.queued_bytes()
        super().put(dataset, shard)
        self.seen.append((before[0] + 1, before[1] + len(shard.body)))


class Hooked(DeviceSession):
    """Calls `hook` with the number of the batch before it runs one."""

    hook: Callable[[int], object] = staticmethod(lambda number: None)
    count = 0

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        """Run after the hook."""
        self.count += 1
        self.hook(self.count)
        return super().run(input_ids, attention_mask)


def examples(count: int = ROWS) -> list[Example]:
    ids = Encoded(np.arange(4, 16, dtype=np.int32), None)
    return [Example(i, ids, i.to_bytes(16, "big"), "a") for i in range(count)]


@pytest.fixture
def outbox(state: StateDirectory) -> Iterator[Recorder]:
    found = Recorder(state.path / "outbox.sqlite3")
    yield found
    found.close()


@pytest.fixture
def dataset(server: ProtocolServer) -> str:
    return server.add_dataset("d", "classification", ["a"])


def make(
    directory: Path, dataset: str, outbox: Outbox, client: Client, *,
    rows: Sequence[Example] = (), hook: Callable[[int], object] | None = None, **rest: Any,
) -> Pipeline:  # fmt: skip
    bundle = read_bundle(directory)

    def open_session() -> DeviceSession:
        session = Hooked(bundle, threads=1)
        session.hook = hook or session.hook
        return session

    return Pipeline(
        examples=rows or examples(),
        header=ShardHeader(bundle.id, dataset, 2, "int8", "classification", 16),
        places={"a": 0},
        open_session=open_session,
        outbox=outbox,
        client=client,
        progress=Silent(),
        **{"stop": threading.Event(), **rest},
    )


def test_a_full_outbox_pauses_computing_until_there_is_room(
    outbox: Recorder, client: Client, dataset: str, encoder_bundle: Path
) -> None:
    pipeline = make(encoder_bundle, dataset, outbox, client, outbox_bytes=20_000)
    assert pipeline.run().examples == ROWS
    assert {shards for shards, _ in outbox.seen} == {1}  # each alone is larger than the limit


def test_a_full_outbox_without_a_server_is_an_error(
    outbox: Recorder, client: Client, server: ProtocolServer, dataset: str, encoder_bundle: Path
) -> None:
    server.script("PUT", *[Fault("before")] * 1000)
    with pytest.raises(RefusedError, match="cannot reach"):
        make(encoder_bundle, dataset, outbox, client, outbox_bytes=70_000).run()
    assert 0 < max(size for _, size in outbox.seen) <= 70_000


class LateOutbox(Recorder):
    """Its first "nothing waits" arrives only when everything has been queued."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked, self.answer = threading.Event(), threading.Event()

    def next(self, dataset: str) -> Entry | None:
        """Look, then wait."""
        found = super().next(dataset)
        if not self.asked.is_set():
            self.asked.set()
            self.answer.wait()
        return found


def test_a_shard_that_is_queued_while_the_upload_looks_is_sent(
    state: StateDirectory, client: Client, server: ProtocolServer, dataset: str,
    encoder_bundle: Path,
) -> None:  # fmt: skip
    outbox = LateOutbox(state.path / "outbox.sqlite3")
    pipeline = make(encoder_bundle, dataset, outbox, client, hook=lambda n: outbox.asked.wait())
    outbox.answer = pipeline._collected
    assert pipeline.run().examples == ROWS == len(server.example_ids(dataset))
    assert outbox.queued() == (0, 0)
    outbox.close()


def test_a_server_that_asks_for_peace_is_left_alone_while_computing_goes_on(
    outbox: Recorder, client: Client, server: ProtocolServer, dataset: str, encoder_bundle: Path
) -> None:
    server.script("PUT", *[Fault("refuse", 503, retry_after="3600")] * 10_000)

    def hook(number: int) -> None:
        while number == LATER and not server.bodies():
            time.sleep(0.01)
        if number >= LATER:
            time.sleep(0.05)  # time to hammer, if it would

    with pytest.raises(RefusedError):
        make(encoder_bundle, dataset, outbox, client, hook=hook).run()
    assert len(server.bodies()) == 1
    assert outbox.queued(dataset) == (4, ROWS)


def test_a_stopped_pipeline_leaves_whole_shards(
    outbox: Recorder, client: Client, server: ProtocolServer, dataset: str, encoder_bundle: Path
) -> None:
    stop = threading.Event()

    def hook(number: int) -> None:
        while number == LATER and not outbox.seen:
            time.sleep(0.01)
        if number == LATER:
            stop.set()

    with pytest.raises(Stopped):
        make(encoder_bundle, dataset, outbox, client, hook=hook, stop=stop).run()
    found = set(server.example_ids(dataset))
    while (entry := outbox.next(dataset)) is not None:
        shard = decode(entry.body)
        assert (digest(entry.body), shard.examples) == (entry.digest, entry.examples)
        assert shard.example_ids is not None
        found |= {row.tobytes() for row in shard.example_ids}
        outbox.ack(entry.digest)
    assert found == outbox.known_examples(dataset)
    assert 0 < len(found) < ROWS


def test_a_row_that_is_not_finite_does_not_keep_the_others_back(
    tmp_path: Path, outbox: Recorder, client: Client, server: ProtocolServer, dataset: str
) -> None:
    table = embedding()
    table[20] = np.nan
    bundle = write_bundle(tmp_path / "nan", table=table)
    server.publish(bundle)
    bad = Example(900, Encoded(np.array([5, 20, 6], np.int32), None), b"x" * 16, "a")
    rows = [*examples(300), bad]
    pipeline = make(bundle, dataset, outbox, client, rows=rows)
    pipeline.run()
    (error,) = pipeline.rejected
    assert error.code == "not_finite"
    assert "line 900" in error.message
    assert len(server.example_ids(dataset)) == 300
    assert b"x" * 16 not in outbox.known_examples(dataset)


def test_a_batch_that_the_graph_cannot_run_is_an_error_of_the_model(encoder_bundle: Path) -> None:
    session = DeviceSession(read_bundle(encoder_bundle), threads=1)
    ids = np.full((1, 3), 10**6, np.int64)
    with pytest.raises(ModelError, match="fails on a batch of 1x3"):
        session.run(ids, np.ones_like(ids))
