"""The outbox: transactions, and SIGKILL at random points of a busy writer."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitfrozen_edge.exits import describe
from splitfrozen_edge.outbox.store import NewShard, Outbox

WRITER = """
import sys
from pathlib import Path
from splitfrozen_edge.outbox.store import NewShard, Outbox

outbox = Outbox(Path(sys.argv[1]))
known = outbox.known_examples("ds")
print("open", flush=True)
for i in range(100_000):
    example = i.to_bytes(16, "big")
    if example not in known:
        outbox.put("ds", NewShard(f"{i:064x}", example * 300, [example], 1))
    entry = outbox.next("ds")
    if i % 3 == 0 and entry:
        outbox.ack(entry.digest)
    elif i % 3 == 1 and entry and len(entry.body) == 4800:
        ids = [entry.body[:16]]
        outbox.replace(entry.digest, NewShard("f" + entry.digest[1:], b"rest", ids, 1))
"""


def shard(number: int, *examples: bytes) -> NewShard:
    return NewShard(f"{number:064x}", bytes([number]) * 9, list(examples) or [b"x"], 3)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    found = Outbox(tmp_path / "outbox.sqlite3")
    yield found
    found.close()


def test_shards_come_back_in_order_with_the_same_bytes(outbox: Outbox) -> None:
    outbox.put("ds", shard(1, b"a", b"b"))
    outbox.put("ds", shard(2, b"c"))
    outbox.put("other", shard(3, b"a"))
    first = outbox.next("ds")
    assert first is not None
    assert (first.body, first.examples, first.tokens) == (b"\x01" * 9, 2, 3)
    assert outbox.next("ds") == first
    outbox.ack(first.digest)
    second = outbox.next("ds")
    assert second is not None
    assert second.body == b"\x02" * 9
    assert outbox.known_examples("ds") == {b"a", b"b", b"c"}
    assert outbox.queued("ds") == (1, 1)
    assert outbox.queued_bytes() == 18


def test_a_known_example_is_not_queued_twice_nor_any_of_its_shard(outbox: Outbox) -> None:
    outbox.put("ds", shard(1, b"a"))
    with pytest.raises(sqlite3.IntegrityError):
        outbox.put("ds", shard(2, b"new", b"a"))
    assert outbox.known_examples("ds") == {b"a"}
    assert outbox.queued() == (1, 1)


def test_a_shard_is_acknowledged_once(outbox: Outbox) -> None:
    outbox.put("ds", shard(1))
    outbox.ack(shard(1).digest)
    with pytest.raises(sqlite3.IntegrityError, match="no queued shard"):
        outbox.ack(shard(1).digest)


def test_replacing_keeps_every_example_known(outbox: Outbox) -> None:
    outbox.put("ds", shard(1, b"a", b"b"))
    outbox.replace(shard(1).digest, shard(2, b"b"))
    entry = outbox.next("ds")
    assert entry is not None
    assert entry.digest == shard(2).digest
    outbox.replace(shard(2).digest, None)
    assert outbox.next("ds") is None
    assert outbox.known_examples("ds") == {b"a", b"b"}


def test_counts_of_a_dataset(outbox: Outbox) -> None:
    outbox.remember_dataset("ds", "reviews", "0" * 64)
    outbox.put("ds", shard(1, b"a", b"b"))
    outbox.put("ds", shard(2, b"c"))
    outbox.ack(shard(1).digest)
    (found,) = outbox.datasets()
    assert (found.name, found.queued_shards, found.queued_examples) == ("reviews", 1, 1)
    assert (found.acked_shards, found.done_examples, found.queued_bytes) == (1, 2, 9)


def test_the_last_used_bundle_comes_first(outbox: Outbox) -> None:
    outbox.remember_bundle("1", Path("/one"))
    outbox.remember_bundle("2", Path("/two"))
    outbox.remember_bundle("1", Path("/moved"))
    assert outbox.bundles() == [("1", Path("/moved")), ("2", Path("/two"))]


def test_a_newer_outbox_is_not_touched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "outbox") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(sqlite3.DatabaseError, match="update it"):
        Outbox(tmp_path / "outbox")


def test_counting_reads_no_bodies(outbox: Outbox) -> None:
    plan = outbox._database.execute(
        "EXPLAIN QUERY PLAN SELECT sum(size), sum(examples) FROM shards WHERE state = 'queued'"
    )
    assert "USING COVERING INDEX" in plan.fetchone()[3]
    columns = outbox._database.execute("PRAGMA table_info(shards)").fetchall()
    assert columns[-1][1] == "body"


def test_a_full_disk_says_so_and_loses_nothing(outbox: Outbox) -> None:
    outbox.put("ds", shard(1, b"a"))
    pages = outbox._database.execute("PRAGMA page_count").fetchone()[0]
    outbox._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full") as caught:
        outbox.put("ds", NewShard("f" * 64, bytes(1 << 20), [b"b"], 1))
    found = describe(caught.value)
    assert found is not None
    assert "the disk is full" in found[1]
    assert outbox.known_examples("ds") == {b"a"}
    outbox.ack(shard(1).digest)


def test_dropped_shards_are_as_if_never_computed(outbox: Outbox) -> None:
    for number, example in enumerate((b"a", b"b", b"c")):
        outbox.put("other" if number == 2 else "ds", shard(number, example))
    outbox.ack(shard(0).digest)
    assert outbox.drop("ds") == (1, 1)
    assert outbox.known_examples("ds") == {b"a"}
    assert outbox.queued() == (1, 1)
    outbox.put("ds", shard(1, b"b"))


def test_every_commit_is_synchronised(outbox: Outbox) -> None:
    pragma = outbox._database.execute
    assert pragma("PRAGMA synchronous").fetchone() == (2,)
    assert pragma("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_kill_at_any_point_leaves_a_consistent_outbox(tmp_path: Path) -> None:
    kill_and_check(tmp_path / "outbox", rounds=6)


@pytest.mark.long
def test_many_kills_leave_a_consistent_outbox(tmp_path: Path) -> None:
    kill_and_check(tmp_path / "outbox", rounds=60)


def kill_and_check(path: Path, rounds: int) -> None:
    """Kill the writer again and again; after each kill states and examples must agree."""
    moments = random.Random(7)
    before: set[bytes] = set()
    for _ in range(rounds):
        writer = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(writer, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moments.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
        before = check(path, before)
    assert len(before) > 10


def check(path: Path, before: set[bytes]) -> set[bytes]:
    """What was committed stays, without gaps; every example has a shard; bodies are whole."""
    outbox = Outbox(path)
    known = outbox.known_examples("ds")
    outbox.close()
    assert before <= known
    assert known == {i.to_bytes(16, "big") for i in range(len(known))}
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    for state, body in database.execute("SELECT state, body FROM shards"):
        assert (state == "queued") == (body is not None)
        assert body is None or body == b"rest" or len(body) == 4800
    database.close()
    return known
