"""Shards that the server refused for good: set aside, sent again, given up; and older files."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitfrozen_edge.outbox.age import age_of, old_shards
from splitfrozen_edge.outbox.room import share
from splitfrozen_edge.outbox.schema import VERSION
from splitfrozen_edge.outbox.store import NewShard, Outbox, Waiting
from tests.edge.test_outbox import shard

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    found = Outbox(tmp_path / "outbox.sqlite3")
    found.remember_dataset("ds", "reviews", "old")
    yield found
    found.close()


def test_a_parked_shard_is_not_sent_but_its_examples_stay_known(outbox: Outbox) -> None:
    outbox.put("ds", shard(1, A))
    outbox.put("ds", shard(2, B, C))
    outbox.park(shard(1).digest, "bad_shape", "no")
    entry = outbox.next("ds")
    assert entry is not None
    assert entry.digest == shard(2).digest
    assert outbox.is_known("ds", A)
    assert outbox.queued("ds") == (1, 2)
    (parked, waiting) = outbox.entries("ds")
    assert (parked.state, parked.code, parked.message) == ("refused", "bad_shape", "no")
    assert (waiting.state, waiting.code, waiting.parked_at) == ("queued", None, None)
    (found,) = outbox.datasets()
    assert (found.queued_examples, found.parked_shards, found.parked_examples) == (2, 1, 1)
    assert found.done_examples == 0


def test_retry_puts_parked_shards_back_in_their_order(outbox: Outbox) -> None:
    for number, example in enumerate((A, B, C)):
        outbox.put("ds", shard(number, example))
        outbox.park(shard(number).digest, "x", "y")
    assert outbox.retry("other") == (0, 0)
    assert outbox.retry("ds", digest=shard(1).digest) == (1, 1)
    assert outbox.retry() == (2, 2)
    entry = outbox.next("ds")
    assert entry is not None
    assert entry.digest == shard(0).digest


def test_a_shard_is_parked_once_and_only_while_it_waits(outbox: Outbox) -> None:
    outbox.put("ds", shard(1, A))
    outbox.park(shard(1).digest, "x", "y")
    with pytest.raises(sqlite3.IntegrityError, match="no queued shard"):
        outbox.park(shard(1).digest, "x", "y")


def test_parking_a_dataset_leaves_the_others(outbox: Outbox) -> None:
    outbox.put("ds", shard(1, A))
    outbox.put("ds", shard(2, B))
    outbox.put("other", shard(3, A))
    outbox.park(shard(1).digest, "x", "first")
    outbox.park_all("ds", "dataset_sealed", "sealed")
    assert outbox.next("ds") is None
    assert outbox.next("other") is not None
    assert [entry.message for entry in outbox.entries("ds")] == ["first", "sealed"]


def test_drop_takes_what_was_chosen(outbox: Outbox) -> None:
    for number, example in enumerate((A, B, C)):
        outbox.put("ds", shard(number, example))
    outbox.park(shard(0).digest, "x", "y")
    assert outbox.drop("ds", before=time.time() - 60) == (0, 0)
    assert outbox.drop("ds", parked=True) == (1, 1)
    assert not outbox.is_known("ds", A)
    assert outbox.drop(digest=shard(2).digest) == (1, 1)
    assert outbox.drop() == (1, 1)
    assert outbox.entries() == []
    assert outbox.queued_bytes() == 0


def test_rows_of_a_bundle_that_is_gone_may_be_computed_with_another(outbox: Outbox) -> None:
    outbox.put("ds", shard(1, A, B))
    outbox.park(shard(1).digest, "unknown_bundle", "gone", bundle="old")
    assert outbox.is_known("ds", A, bundle="old")
    assert not outbox.is_known("ds", A, bundle="new")
    outbox.put("ds", shard(2, A))
    assert outbox.is_known("ds", A, bundle="newer")  # it waits in a shard of its own now
    assert not outbox.is_known("ds", B, bundle="new")
    (found,) = outbox.datasets()
    assert (found.queued_examples, found.parked_examples) == (1, 1)
    outbox.put("ds", shard(3, B))
    assert [entry.state for entry in outbox.entries("ds")] == ["queued", "queued"]


def test_rows_refused_for_another_reason_are_not_computed_again(outbox: Outbox) -> None:
    outbox.put("ds", shard(1, A))
    outbox.park(shard(1).digest, "bad_shape", "no", bundle="old")
    assert outbox.is_known("ds", A, bundle="new")
    with pytest.raises(sqlite3.IntegrityError):
        outbox.put("ds", shard(2, A))


def test_forgetting_a_dataset_leaves_no_byte_of_it(outbox: Outbox, tmp_path: Path) -> None:
    outbox._database.execute("PRAGMA secure_delete = OFF")  # as many SQLite libraries have it
    secret = NewShard("d" * 64, b"secret" * 10_000, [b"0123456789abcdef"], 3)
    outbox.put("ds", secret)
    sent = NewShard("e" * 64, b"secret" * 10_000, [b"fedcba9876543210"], 3)
    outbox.put("ds", sent)
    outbox.ack(sent.digest)
    outbox.put("ds", shard(2, B))
    outbox.park(shard(2).digest, "x", "y")
    outbox.put("other", shard(3, C))
    outbox.forget("ds")
    assert outbox.datasets() == []
    assert outbox.entries("ds") == []
    assert not outbox.is_known("ds", B)
    assert outbox.is_known("other", C)
    log = tmp_path / "outbox.sqlite3-wal"
    assert not log.exists() or log.stat().st_size == 0
    file = tmp_path / "outbox.sqlite3"
    assert b"secretsecret" not in file.read_bytes()
    assert file.stat().st_size < 60_000


@pytest.mark.parametrize("how", ["drop", "forget"])
def test_giving_up_many_shards_does_not_look_through_all_ids_for_each(
    outbox: Outbox, how: str
) -> None:
    ids = [number.to_bytes(16, "big") for number in range(5000)]
    outbox.put("other", NewShard("d" * 64, b"x", ids, 3))
    for number in range(100):
        outbox.put("ds", shard(number, b"%016d" % number))
    outbox.park(shard(7).digest, "x", "y")
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1000
        return 0

    outbox._database.set_progress_handler(count, 1000)
    outbox.drop("ds") if how == "drop" else outbox.forget("ds")
    outbox._database.set_progress_handler(None, 0)
    assert steps < 20 * len(ids)  # of SQLite's machine; one look for each shard takes 100 and more
    assert outbox.entries("ds") == []
    assert outbox.queued("other") == (1, 5000)
    with pytest.raises(sqlite3.IntegrityError):  # references are checked as before
        outbox._database.execute("DELETE FROM shards")


def test_a_file_of_version_1_is_taken_over_as_it_is(tmp_path: Path) -> None:
    """The tables as the first release wrote them."""
    path = tmp_path / "outbox.sqlite3"
    database = sqlite3.connect(path)
    database.executescript(
        """
        CREATE TABLE datasets (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, bundle TEXT NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE bundles (
            id TEXT PRIMARY KEY, directory TEXT NOT NULL, used_at REAL NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE shards (
            sequence INTEGER PRIMARY KEY, dataset TEXT NOT NULL, digest TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL CHECK (state IN ('queued', 'acked', 'replaced')),
            size INTEGER NOT NULL, examples INTEGER NOT NULL, tokens INTEGER NOT NULL,
            created_at REAL NOT NULL,
            body BLOB CHECK ((body IS NULL) = (state <> 'queued'))
        );
        CREATE INDEX shards_by_state ON shards (state, dataset, sequence, size, examples);
        CREATE TABLE examples (
            dataset TEXT NOT NULL, id BLOB NOT NULL,
            sequence INTEGER NOT NULL REFERENCES shards (sequence), PRIMARY KEY (dataset, id)
        ) WITHOUT ROWID;
        INSERT INTO datasets VALUES ('ds', 'reviews', 'b1');
        INSERT INTO bundles VALUES ('b1', '/bundle', 1.0);
        INSERT INTO shards VALUES (1, 'ds', 'd1', 'acked', 9, 1, 3, 5.0, NULL);
        INSERT INTO shards VALUES (2, 'ds', 'd2', 'queued', 4, 1, 3, 6.0, x'01020304');
        INSERT INTO examples VALUES ('ds', x'aa', 1), ('ds', x'bb', 2);
        PRAGMA user_version = 1;
        """
    )
    database.close()
    outbox = Outbox(path)
    (found,) = outbox.datasets()
    assert (found.name, found.acked_shards, found.queued_shards, found.done_examples) == (
        "reviews", 1, 1, 1,
    )  # fmt: skip
    entry = outbox.next("ds")
    assert entry is not None
    assert (entry.digest, entry.body) == ("d2", b"\x01\x02\x03\x04")
    assert outbox.known_examples("ds") == {b"\xaa", b"\xbb"}
    assert outbox.bundles() == [("b1", Path("/bundle"))]
    outbox.park("d2", "x", "y")
    outbox.close()
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,) == (2,)
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()


def test_a_clock_that_was_set_back_makes_nothing_old_and_keeps_the_order(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.put("ds", shard(1, A))
    outbox.remember_bundle("1", Path("/one"))
    monkeypatch.setattr(time, "time", lambda: 1000.0)  # 1970: a device without a battery
    outbox.put("ds", shard(2, B))
    outbox.remember_bundle("2", Path("/two"))
    assert [known for known, _ in outbox.bundles()] == ["2", "1"]
    first = outbox.next("ds")
    assert first is not None
    assert first.digest == shard(1).digest
    assert [age_of(entry, time.time()) for entry in outbox.entries()] == [0.0, 0.0]


def test_old_shards_are_told_and_nothing_else_happens(outbox: Outbox) -> None:
    outbox.put("ds", shard(1, A))
    later = time.time() + 40 * 86400
    assert old_shards(outbox.entries(), 41 * 86400, later) is None
    found = old_shards(outbox.entries(), 30 * 86400, later)
    assert found is not None
    assert "1 examples in 1 shards wait for more than 30 days" in found
    assert "queue drop --older-than 30" in found
    assert outbox.queued() == (1, 1)


def test_an_age_is_never_negative() -> None:
    made = Waiting("ds", "d", "queued", 1, 1, 1, created_at=500.0)
    assert age_of(made, 400.0) == 0.0
    assert age_of(made, 600.0) == 100.0


def test_the_share_of_the_disk_does_not_shrink_while_the_outbox_fills() -> None:
    assert share(free=100, queued=0, empty=0) == 50
    assert share(free=60, queued=30, empty=10) == 50


def test_the_outbox_has_room_up_to_its_limit(outbox: Outbox) -> None:
    outbox.put("ds", shard(1, A))  # 9 bytes
    assert outbox.has_room(91, 100)
    assert not outbox.has_room(92, 100)
    outbox.park(shard(1).digest, "x", "y")
    assert not outbox.has_room(92, 100)  # parked bodies take room as well


def test_room_that_was_freed_goes_back_to_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    outbox = Outbox(path)
    for number in range(70):
        body = bytes(1 << 20)
        outbox.put("ds", type(shard(0))(f"{number:064x}", body, [bytes([number]) * 16], 1))
    full = path.stat().st_size
    for number in range(70):
        outbox.ack(f"{number:064x}")
    outbox.close()
    assert path.stat().st_size < full / 50
