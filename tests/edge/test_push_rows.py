"""Rows from an app: endless, slow, repeated, broken; and rows that are collected offline."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitfrozen.errors import DataError, QuantizeError, RefusedError
from splitfrozen_edge.data.occurrences import Occurrences
from splitfrozen_edge.data.rows import Row
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.pushing import pusher as module
from splitfrozen_edge.pushing.pipeline import Stopped
from splitfrozen_edge.pushing.pusher import PushOptions, open_pusher, push_rows
from splitfrozen_edge.state import StateDirectory, StateError
from tests.edge.conftest import NewClient
from tests.edge.protocol_server import Fault, ProtocolServer
from tests.edge.tiny_bundle import embedding, write_bundle


def rows(start: int, stop: int, label: str = "good") -> Iterator[dict[str, Any]]:
    return ({"text": f"the bird {i}", "label": label} for i in range(start, stop))


@pytest.fixture
def options(encoder_bundle: Path) -> PushOptions:
    return PushOptions("d", bundle=str(encoder_bundle), threads=1)


def stored(server: ProtocolServer, dataset: str = "ds_0") -> int:
    found = server.example_ids(dataset)
    assert len(found) == len(set(found))
    return len(found)


def test_rows_arrive_once_however_often_they_are_pushed(
    options: PushOptions, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    report = push_rows(rows(0, 300), options, state, client)
    assert (report.rows, report.examples, report.uploaded_examples) == (300, 300, 300)
    again = push_rows(rows(100, 400), options, state, client)
    assert (again.rows, again.skipped, again.examples) == (300, 200, 100)
    assert stored(server) == 400


def test_equal_rows_of_one_call_are_different_examples(
    options: PushOptions, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    row = {"text": "the bird", "label": "a"}
    assert push_rows([row] * 5, options, state, client).uploaded_examples == 5
    assert push_rows([row] * 7, options, state, client).uploaded_examples == 2
    assert stored(server) == 7


def test_whoever_follows_a_file_says_how_often_a_row_came_before(
    options: PushOptions, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    row = Row(1, {"text": "the bird", "label": "a"})
    numbers = itertools.count()
    with open_pusher(options, state, client) as pusher:
        for _ in range(3):
            pusher.push_rows([row], occurrence=lambda first: next(numbers))
    assert stored(server) == 3


def test_an_endless_iterator_is_taken_in_windows_and_ends_with_stop(
    options: PushOptions, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    stop, taken = threading.Event(), 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for taken in itertools.count():
            if len(server.bodies()) >= 4:
                stop.set()
            yield {"text": f"the bird {taken}", "label": "good"}

    with pytest.raises(Stopped):
        push_rows(endless(), options, state, client, stop=stop)
    outbox = state.outbox()
    kept = len(outbox.known_examples("ds_0"))
    outbox.close()
    assert stored(server) <= kept
    assert taken - kept < 3000  # in flight: two windows, some batches and a shard
    assert push_rows(rows(0, taken), options, state, client).rows == taken
    assert stored(server) == taken


def test_slow_rows_are_not_held_back(
    options: PushOptions, state: StateDirectory, client: Client, server: ProtocolServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "LINGER", 0.05)
    arrived = threading.Event()
    store = server._store

    def noted(*values: Any) -> tuple[int, Any]:
        answer = store(*values)
        arrived.set()
        return answer

    server._store = noted  # type: ignore[method-assign]

    def slow() -> Iterator[dict[str, Any]]:
        yield {"text": "the first", "label": "a"}
        assert arrived.wait(60)  # no second row comes before the first is on the server
        yield {"text": "the second", "label": "a"}

    assert push_rows(slow(), options, state, client).uploaded_shards == 2


def test_what_came_before_a_bad_row_is_sent_and_then_the_row_is_told(
    options: PushOptions, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    bad: list[Any] = [{"text": 7, "label": "good"}]
    with pytest.raises(DataError, match="rows:201: text: is a number, not text"):
        push_rows(itertools.chain(rows(0, 200), bad, rows(200, 300)), options, state, client)
    assert stored(server) == 200


def test_bad_rows_can_be_heard_of_and_skipped(
    options: PushOptions, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    server.add_dataset("d", "classification", ["good"])
    heard: list[str] = []
    given = [*rows(0, 2), {"text": 7, "label": "good"}, *rows(2, 4, label="bad"), 5, *rows(4, 5)]
    report = push_rows(
        given,  # type: ignore[arg-type]
        options, state, client, on_bad_row=lambda error: heard.append(str(error)),
    )  # fmt: skip
    assert (report.rows, report.uploaded_examples, report.bad_rows) == (7, 3, 4)
    assert [item.split(": ")[0] for item in heard] == ["rows:3", "rows:4", "rows:5", "rows:6"]
    assert "'bad' is not a label of the dataset" in heard[1]


def test_an_error_of_the_iterator_is_raised_when_the_rows_before_it_are_sent(
    options: PushOptions, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from rows(0, 150)
        raise KeyError("sensor")

    with pytest.raises(KeyError, match="sensor"):
        push_rows(broken(), options, state, client)
    assert stored(server) == 150


def test_new_labels_are_added_as_they_turn_up(
    options: PushOptions, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    given = itertools.chain(rows(0, 3, "b"), rows(3, 6, "a"), rows(6, 9, "b"))
    push_rows(given, options, state, client)
    assert server.find_dataset("d")["labels"] == ["b", "a"]
    (shard,) = server.shards["ds_0"].values()
    assert shard.labels is not None
    assert sorted(shard.labels.tolist()) == [0] * 6 + [1] * 3


def test_the_iterable_is_taken_in_the_callers_thread(
    tmp_path: Path, options: PushOptions, state: StateDirectory, client: Client
) -> None:
    """A cursor of SQLite refuses any other."""
    database = sqlite3.connect(tmp_path / "app.db")
    database.execute("CREATE TABLE notes (text TEXT, label TEXT)")
    database.executemany("INSERT INTO notes VALUES (?, 'a')", [(f"note {i}",) for i in range(200)])
    cursor = database.execute("SELECT text, label FROM notes")
    found = push_rows(({"text": t, "label": v} for t, v in cursor), options, state, client)
    assert found.uploaded_examples == 200
    database.close()


def test_rows_are_collected_offline_and_sent_later(
    options: PushOptions, state: StateDirectory, new_client: NewClient, server: ProtocolServer
) -> None:
    push_rows(rows(0, 1), options, state, new_client())
    known = dict(server.find_dataset("d"))
    server.script("PUT", *[Fault("before")] * 99)
    server.script("GET", *[Fault("before")] * 99)
    server.script("POST", *[Fault("before")] * 99)
    seen = len(server.requests)
    with open_pusher(options, state, new_client()) as pusher:
        pusher.remember_dataset(known)
        report = pusher.collect(rows(1, 300))
        assert (report.examples, report.uploaded_examples) == (299, 0)
        assert len(server.requests) == seen
        with pytest.raises(RefusedError):
            pusher.flush()
        server.faults.clear()
        assert pusher.flush().uploaded_examples == 299
    assert stored(server) == 300


def test_no_rows_send_what_waits(
    options: PushOptions, state: StateDirectory, new_client: NewClient, server: ProtocolServer
) -> None:
    server.script("PUT", *[Fault("refuse", 401, "unauthorized")])
    with pytest.raises(RefusedError):
        push_rows(rows(0, 10), options, state, new_client())
    assert push_rows([], options, state, new_client()).uploaded_examples == 10


def test_no_rows_for_no_dataset_is_an_error(
    options: PushOptions, state: StateDirectory, client: Client
) -> None:
    with pytest.raises(StateError, match="there is no dataset d"):
        push_rows([], options, state, client)


@pytest.mark.parametrize("heard", [True, False])
def test_a_row_that_is_not_finite_is_told_of(
    tmp_path: Path, state: StateDirectory, client: Client, server: ProtocolServer, heard: bool
) -> None:
    table = embedding()
    table[2] = np.nan  # [SEP]: in every row
    bundle = write_bundle(tmp_path / "nan", table=table)
    server.publish(bundle)
    told: list[DataError] = []
    options = PushOptions("d", str(bundle), threads=1)
    if heard:
        push_rows(rows(0, 3), options, state, client, on_bad_row=told.append)
        assert len(told) == 3
    else:
        with pytest.raises(QuantizeError, match="3 rows cannot be sent"):
            push_rows(rows(0, 3), options, state, client)


def test_a_gate_is_asked_before_each_batch_and_upload(
    options: PushOptions, state: StateDirectory, client: Client
) -> None:
    class Gate:
        batches = 0
        sizes: list[int] = []  # noqa: RUF012

        def before_batch(self) -> None:
            self.batches += 1

        def before_upload(self, size: int) -> None:
            self.sizes.append(size)

    gate = Gate()
    report = push_rows(rows(0, 300), options, state, client, gate=gate)
    assert gate.batches >= 3
    assert sum(gate.sizes) == report.bytes_body


def test_occurrences_are_counted() -> None:
    found = Occurrences()
    assert [found(key) for key in (b"a", b"b", b"a", b"a", b"b")] == [0, 0, 1, 2, 1]
    found.close()
