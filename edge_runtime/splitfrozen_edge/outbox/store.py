"""Shards waiting on disk, and what was already collected. Survives a power cut at any instruction.

SQLite in WAL mode with full synchronisation: every method that changes something is one
transaction, so a kill leaves the state before or after it, never between. Bodies are stored
encoded: a retry sends the same bytes. A shard is

    queued   its body waits for a receipt
    acked    the server confirmed its digest; the body is gone
    replaced the server knew some of its examples; the others wait in another shard

The ids of a dataset's examples stay for ever, so no example is computed or sent twice.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

VERSION = 1

# `body` stands last, and the index holds what is summed: counting must not read megabytes.
_SCHEMA = """
CREATE TABLE datasets (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, bundle TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE bundles (
    id TEXT PRIMARY KEY, directory TEXT NOT NULL, used_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE shards (
    sequence INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('queued', 'acked', 'replaced')),
    size INTEGER NOT NULL,
    examples INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    created_at REAL NOT NULL,
    body BLOB CHECK ((body IS NULL) = (state <> 'queued'))
);
CREATE INDEX shards_by_state ON shards (state, dataset, sequence, size, examples);
CREATE TABLE examples (
    dataset TEXT NOT NULL,
    id BLOB NOT NULL,
    sequence INTEGER NOT NULL REFERENCES shards (sequence),
    PRIMARY KEY (dataset, id)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Entry:
    """One queued shard."""

    sequence: int
    dataset: str
    digest: str
    body: bytes
    examples: int
    tokens: int


@dataclass(frozen=True)
class NewShard:
    """A shard to queue."""

    digest: str
    body: bytes
    example_ids: Sequence[bytes]
    tokens: int


@dataclass(frozen=True)
class DatasetState:
    """Counts of one dataset."""

    id: str
    name: str
    bundle: str
    queued_shards: int
    queued_examples: int
    queued_bytes: int
    acked_shards: int
    done_examples: int


class Outbox:
    """The device's queue; one process writes at a time, threads share it."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # What a kill or a full disk leaves half-written is rolled back when the file opens again.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA foreign_keys = ON")
        self._database.execute("PRAGMA busy_timeout = 10000")
        self._migrate()

    def close(self) -> None:
        """Close the database; the object is of no use afterwards."""
        with self._lock:
            self._database.close()

    def put(self, dataset: str, shard: NewShard) -> None:
        """Queue an encoded shard and remember its examples.

        Raises sqlite3.IntegrityError if an example of it is already there.
        """
        with self._transaction() as database:
            sequence = _insert_shard(database, dataset, shard)
            rows = [(dataset, example, sequence) for example in shard.example_ids]
            database.executemany("INSERT INTO examples VALUES (?, ?, ?)", rows)

    def next(self, dataset: str) -> Entry | None:
        """The oldest queued shard of a dataset."""
        with self._lock:
            row = self._database.execute(
                "SELECT sequence, dataset, digest, body, examples, tokens FROM shards "
                "WHERE state = 'queued' AND dataset = ? ORDER BY sequence LIMIT 1",
                (dataset,),
            ).fetchone()
        return None if row is None else Entry(*row)

    def ack(self, digest: str) -> None:
        """Forget the body of a shard that the server confirmed."""
        with self._transaction() as database:
            _finish(database, digest, "acked")

    def replace(self, digest: str, rest: NewShard | None) -> None:
        """Queue `rest`, the examples of a shard that the server did not know, in its place.

        The examples that it did know count as sent.
        """
        with self._transaction() as database:
            dataset = _finish(database, digest, "replaced")
            if rest is None:
                return
            sequence = _insert_shard(database, dataset, rest)
            rows = [(sequence, dataset, example) for example in rest.example_ids]
            database.executemany(
                "UPDATE examples SET sequence = ? WHERE dataset = ? AND id = ?", rows
            )

    def drop(self, dataset: str) -> tuple[int, int]:
        """Give up what waits of a dataset, as if never computed: (shards, examples) dropped."""
        queued = "state = 'queued' AND dataset = :dataset"
        with self._transaction() as database:
            examples = database.execute(
                "DELETE FROM examples WHERE dataset = :dataset AND sequence IN "
                f"(SELECT sequence FROM shards WHERE {queued})",
                {"dataset": dataset},
            ).rowcount
            shards = database.execute(
                f"DELETE FROM shards WHERE {queued}", {"dataset": dataset}
            ).rowcount
        return shards, examples

    def known_examples(self, dataset: str) -> set[bytes]:
        """Ids of all examples of a dataset that are queued or sent."""
        with self._lock:
            rows = self._database.execute("SELECT id FROM examples WHERE dataset = ?", (dataset,))
            return {row[0] for row in rows}

    def queued_bytes(self) -> int:
        """Bytes of all bodies that wait."""
        return int(self._value("SELECT coalesce(sum(size), 0) FROM shards WHERE state = 'queued'"))

    def queued(self, dataset: str | None = None) -> tuple[int, int]:
        """(shards, examples) that wait, of one dataset or of all."""
        condition = "" if dataset is None else " AND dataset = ?"
        with self._lock:
            row = self._database.execute(
                "SELECT count(*), coalesce(sum(examples), 0) FROM shards "
                f"WHERE state = 'queued'{condition}",
                () if dataset is None else (dataset,),
            ).fetchone()
        return int(row[0]), int(row[1])

    def remember_dataset(self, dataset: str, name: str, bundle: str) -> None:
        """Keep a dataset's name and the bundle that feeds it."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO datasets VALUES (?, ?, ?) ON CONFLICT (id) "
                "DO UPDATE SET name = excluded.name, bundle = excluded.bundle",
                (dataset, name, bundle),
            )

    def dataset_bundle(self, dataset: str) -> str | None:
        """Id of the bundle that this device last used for a dataset."""
        with self._lock:
            row = self._database.execute(
                "SELECT bundle FROM datasets WHERE id = ?", (dataset,)
            ).fetchone()
        return None if row is None else str(row[0])

    def remember_bundle(self, bundle: str, directory: Path) -> None:
        """Keep where a bundle is on this device; it becomes the last used one."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO bundles VALUES (?, ?, ?) ON CONFLICT (id) "
                "DO UPDATE SET directory = excluded.directory, used_at = excluded.used_at",
                (bundle, str(directory), time.time()),
            )

    def bundles(self) -> list[tuple[str, Path]]:
        """(id, directory) of the bundles used on this device, the last used first."""
        with self._lock:
            rows = self._database.execute(
                "SELECT id, directory FROM bundles ORDER BY used_at DESC"
            ).fetchall()
        return [(row[0], Path(row[1])) for row in rows]

    def datasets(self) -> list[DatasetState]:
        """Every dataset with its counts."""
        with self._lock:
            rows = self._database.execute(_COUNTS).fetchall()
        return [DatasetState(*row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                # A full disk has rolled back already; a second time would hide that error.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _value(self, query: str) -> int:
        with self._lock:
            return int(self._database.execute(query).fetchone()[0])

    def _migrate(self) -> None:
        with self._transaction() as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise sqlite3.DatabaseError(
                    f"the outbox has version {version}; this program knows {VERSION}: update it"
                )
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {VERSION}")


def _insert_shard(database: sqlite3.Connection, dataset: str, shard: NewShard) -> int:
    cursor = database.execute(
        "INSERT INTO shards (dataset, digest, state, body, size, examples, tokens, created_at) "
        "VALUES (?, ?, 'queued', ?, ?, ?, ?, ?)",
        (
            dataset,
            shard.digest,
            shard.body,
            len(shard.body),
            len(shard.example_ids),
            shard.tokens,
            time.time(),
        ),
    )
    sequence = cursor.lastrowid
    if sequence is None:
        raise sqlite3.DatabaseError("the outbox gave no sequence number")
    return sequence


def _finish(database: sqlite3.Connection, digest: str, state: str) -> str:
    """Leave state queued; returns the dataset."""
    row = database.execute(
        "UPDATE shards SET state = ?, body = NULL WHERE digest = ? AND state = 'queued' "
        "RETURNING dataset",
        (state, digest),
    ).fetchone()
    if row is None:
        raise sqlite3.IntegrityError(f"no queued shard {digest}")
    return str(row[0])


_COUNTS = """
SELECT d.id, d.name, d.bundle,
    (SELECT count(*) FROM shards s WHERE s.dataset = d.id AND s.state = 'queued'),
    (SELECT coalesce(sum(examples), 0) FROM shards s WHERE s.dataset = d.id AND state = 'queued'),
    (SELECT coalesce(sum(size), 0) FROM shards s WHERE s.dataset = d.id AND state = 'queued'),
    (SELECT count(*) FROM shards s WHERE s.dataset = d.id AND s.state = 'acked'),
    (SELECT count(*) FROM examples e JOIN shards s USING (sequence)
        WHERE e.dataset = d.id AND s.state <> 'queued')
FROM datasets d ORDER BY d.name
"""
