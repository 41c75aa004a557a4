"""Reads what can be read of a damaged outbox into a new file.

Carried over: queued and parked shards whose body has the right digest, with their examples; the
ids of examples of shards that were sent; datasets and bundles. Where it cannot be told whether an
example was sent, its id is left out: its row is then sent again, and the server, which knows the
id, does not store it twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitfrozen.errors import WireError
from splitfrozen.wire import decode, digest
from splitfrozen_edge.outbox.schema import migrate

_SHARD = "sequence, dataset, digest, state, size, examples, tokens, created_at"
_PIECES = 16  # parts that an unreadable range of ids is cut into
_DEPTH = 2


@dataclass(frozen=True)
class Recovered:
    """What came over from a damaged file."""

    waiting: int  # shards that still wait, queued or parked
    lost: int  # shards that waited and cannot be read
    examples: int  # ids

    def words(self) -> str:
        """For a person; follows "the outbox was damaged: "."""
        found = f"{self.waiting} waiting shards and {self.examples} example ids were carried over"
        if self.lost:
            found += f", {self.lost} waiting shards are lost (push their rows again)"
        return (
            f"{found}. Rows whose ids are lost may be sent again; the server refuses ids that it "
            "knows, so nothing is stored twice"
        )


def recover(damaged: Path, made: Path) -> Recovered:
    """Write a sound outbox to the path `made`, durably."""
    source, target = sqlite3.connect(damaged), sqlite3.connect(made, isolation_level=None)
    made.chmod(0o600)
    try:
        target.execute("PRAGMA auto_vacuum = INCREMENTAL")
        target.execute("PRAGMA synchronous = FULL")
        target.execute("PRAGMA foreign_keys = ON")
        target.execute("BEGIN IMMEDIATE")
        migrate(target)
        found = _copy(source, target)
        target.execute("COMMIT")
    finally:
        source.close()
        target.close()
    return found


def _copy(source: sqlite3.Connection, target: sqlite3.Connection) -> Recovered:
    for table, columns in (("datasets", 3), ("bundles", 3)):
        marks = ", ".join("?" * columns)
        for row in _both_ways(source, f"SELECT * FROM {table}", "id"):
            target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
    waiting = lost = 0
    for sequence, state in sorted(_states(source).items()):
        kept = _copy_shard(source, target, sequence, state)
        waiting += kept and state == "queued"
        lost += not kept and state == "queued"
    for row in _both_ways(source, "SELECT * FROM parked", "sequence"):
        _insert(target, "INSERT OR IGNORE INTO parked VALUES (?, ?, ?, ?, ?, ?)", row)
    examples = 0
    for row in _all_examples(source):
        examples += _insert(target, "INSERT OR IGNORE INTO examples VALUES (?, ?, ?)", row)
    for row in _examples_of_bodies(target):
        examples += _insert(target, "INSERT OR IGNORE INTO examples VALUES (?, ?, ?)", row)
    return Recovered(waiting, lost, examples)


def _states(source: sqlite3.Connection) -> dict[int, str]:
    """Sequence -> state, from the table and from the index: a lost page of one is in the other."""
    found: dict[int, str] = {}
    for hint in ("NOT INDEXED", "INDEXED BY shards_by_state"):
        query = f"SELECT sequence, state FROM shards {hint} WHERE state > ''"
        for order in ("", " ORDER BY state, dataset, sequence", " ORDER BY sequence DESC"):
            for row in _readable(source, query + order):
                if isinstance(row[0], int) and row[1] in ("queued", "acked", "replaced"):
                    found.setdefault(row[0], row[1])
    return found


def _copy_shard(
    source: sqlite3.Connection, target: sqlite3.Connection, sequence: int, state: str
) -> bool:
    rows = list(_readable(source, f"SELECT {_SHARD} FROM shards WHERE sequence = ?", (sequence,)))
    if state != "queued":
        # Its row may be lost; that it was sent is what its examples need.
        row = rows[0] if rows else (sequence, "", f"lost-{sequence}", state, 0, 0, 0, 0.0)
        return _insert(target, _INSERT, (*row, None))
    bodies = list(_readable(source, "SELECT body FROM shards WHERE sequence = ?", (sequence,)))
    if not rows or not bodies or not isinstance(bodies[0][0], bytes):
        return False
    body = bodies[0][0]
    return digest(body) == rows[0][2] and _insert(target, _INSERT, (*rows[0], body))


_INSERT = f"INSERT OR IGNORE INTO shards ({_SHARD}, body) VALUES ({', '.join('?' * 9)})"


def _insert(target: sqlite3.Connection, statement: str, row: tuple[Any, ...]) -> bool:
    """Whether the row went in; one that breaks a rule of the tables was damaged."""
    try:
        return target.execute(statement, row).rowcount > 0
    except sqlite3.IntegrityError:
        return False


def _all_examples(source: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    names = {row[0] for row in _both_ways(source, "SELECT id FROM datasets", "id")}
    names |= {row[0] for row in _readable(source, "SELECT DISTINCT dataset FROM shards")}
    for name in names:
        yield from _examples(source, name, 0, 1 << 128, 0)


def _examples(
    source: sqlite3.Connection, dataset: str, low: int, high: int, depth: int
) -> Iterator[tuple[Any, ...]]:
    """Ids in [low, high), as numbers: a range that cannot be read is cut into smaller ones."""
    query = "SELECT dataset, id, sequence FROM examples WHERE dataset = ? AND id >= ?"
    values: tuple[Any, ...] = (dataset, low.to_bytes(17, "big")[1:])
    if high < 1 << 128:
        query, values = f"{query} AND id < ?", (*values, high.to_bytes(16, "big"))
    try:
        yield from source.execute(query, values)
        return
    except sqlite3.DatabaseError:
        if depth == _DEPTH:
            yield from _readable(source, query + " ORDER BY id DESC", values)
            return
    step = (high - low) // _PIECES
    for start in range(low, high, step):
        yield from _examples(source, dataset, start, start + step, depth + 1)


def _examples_of_bodies(target: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """The ids that a waiting body holds; they are told even if the table's page is lost."""
    waiting = target.execute(
        "SELECT sequence, dataset FROM shards WHERE state = 'queued' AND sequence NOT IN "
        "(SELECT sequence FROM parked WHERE code = 'unknown_bundle')"
    ).fetchall()
    for sequence, dataset in waiting:
        query = "SELECT body FROM shards WHERE sequence = ?"
        try:
            shard = decode(target.execute(query, (sequence,)).fetchone()[0])
        except WireError:
            continue
        if shard.example_ids is not None:
            yield from ((dataset, row.tobytes(), sequence) for row in shard.example_ids)


def _both_ways(source: sqlite3.Connection, query: str, key: str) -> Iterator[tuple[Any, ...]]:
    """Rows up to the first that cannot be read, from either end."""
    yield from _readable(source, query)
    yield from _readable(source, f"{query} ORDER BY {key} DESC")


def _readable(
    source: sqlite3.Connection, query: str, values: tuple[Any, ...] = ()
) -> Iterator[tuple[Any, ...]]:
    try:
        yield from source.execute(query, values)
    except sqlite3.DatabaseError:
        return
