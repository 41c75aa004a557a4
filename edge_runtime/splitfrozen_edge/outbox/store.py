"""Shards waiting on disk, and what was already collected. Survives a power cut at any instruction.

Every method that changes something is one durable transaction. Bodies are stored encoded: a retry
sends the same bytes. A shard is

    queued   its body waits for a receipt; if the server refused it for good it is parked besides,
             and waits for the user instead
    acked    the server confirmed its digest; the body is gone
    replaced the server knew some of its examples; the others wait in another shard

The ids of a dataset's examples stay as long as the dataset does, however old they are: without
them a row that is pushed again would be computed and sent again.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress

from splitfrozen_edge.outbox.catalog import Catalog
from splitfrozen_edge.outbox.entries import DatasetState, Entry, NewShard, Waiting
from splitfrozen_edge.outbox.points import reach
from splitfrozen_edge.outbox.queries import Selection, supersede
from splitfrozen_edge.outbox.room import allowance

__all__ = ["DatasetState", "Entry", "NewShard", "Outbox", "Waiting"]

_FREE = "state = 'queued' AND sequence NOT IN (SELECT sequence FROM parked)"
_SHRINK = 64 * 1024 * 1024  # bytes of the file that hold nothing; more goes back to the disk


class Outbox(Catalog):
    """The device's queue; one process writes at a time, threads share it."""

    def close(self) -> None:
        """Close the file, smaller if much of it is empty; the object is of no use afterwards."""
        with suppress(sqlite3.Error):
            size, empty = self._pages()
            if size * empty > _SHRINK:
                with self._lock:  # a script is stepped to its end; a statement without columns not
                    self._database.executescript("PRAGMA incremental_vacuum")
        super().close()

    def put(self, dataset: str, shard: NewShard) -> None:
        """Queue an encoded shard and remember its examples.

        Raises sqlite3.IntegrityError if an example of it is already there; one of a shard that
        was refused because its bundle is gone moves here instead.
        """
        reach("enqueue.begin")
        with self._writing() as database:
            reach("enqueue.begun")
            sequence = _insert_shard(database, dataset, shard)
            reach("enqueue.shard")
            supersede(database, dataset, shard.example_ids)
            rows = [(dataset, example, sequence) for example in shard.example_ids]
            database.executemany("INSERT INTO examples VALUES (?, ?, ?)", rows)
            reach("enqueue.examples")
        reach("enqueue.done")

    def next(self, dataset: str) -> Entry | None:
        """The oldest queued shard of a dataset that is not parked."""
        rows = self._read(
            "SELECT sequence, dataset, digest, body, examples, tokens FROM shards "
            f"WHERE {_FREE} AND dataset = ? ORDER BY sequence LIMIT 1",
            (dataset,),
        )
        reach("send.next")
        return Entry(*rows[0]) if rows else None

    def bundle_of(self, digest: str) -> str:
        """Id of the bundle that a queued shard was computed with; empty if it is unreadable."""
        from splitfrozen.errors import WireError
        from splitfrozen.wire import decode  # loads numpy, which `status` must not

        query = "SELECT body FROM shards WHERE digest = ? AND state = 'queued'"
        rows = self._read(query, (digest,))
        try:
            return decode(rows[0][0]).bundle if rows else ""
        except WireError:
            return ""

    def ack(self, digest: str) -> None:
        """Forget the body of a shard that the server confirmed."""
        reach("ack.begin")
        with self._writing() as database:
            reach("ack.begun")
            _finish(database, digest, "acked")
            reach("ack.shard")
        reach("ack.done")

    def replace(self, digest: str, rest: NewShard | None) -> None:
        """Queue `rest`, the examples of a shard that the server did not know, in its place.

        The examples that it did know count as sent.
        """
        reach("replace.begin")
        with self._writing() as database:
            reach("replace.begun")
            dataset = _finish(database, digest, "replaced")
            reach("replace.shard")
            if rest is not None:
                sequence = _insert_shard(database, dataset, rest)
                reach("replace.rest")
                rows = [(sequence, dataset, example) for example in rest.example_ids]
                database.executemany(
                    "UPDATE examples SET sequence = ? WHERE dataset = ? AND id = ?", rows
                )
                reach("replace.examples")
        reach("replace.done")

    def park(self, digest: str, code: str, message: str, *, bundle: str = "") -> None:
        """Put a queued shard aside, because the server will never take it as it is.

        `bundle` (id of its bundle) matters with code unknown_bundle: its rows may then be
        computed again with another bundle.
        """
        reach("park.begin")
        with self._writing() as database:
            reach("park.begun")
            found = database.execute(
                "INSERT INTO parked SELECT sequence, ?, ?, ?, examples, ? FROM shards "
                f"WHERE {_FREE} AND digest = ?",
                (code, message, bundle, time.time(), digest),
            ).rowcount
            if found == 0:
                raise sqlite3.IntegrityError(f"no queued shard {digest}")
            reach("park.shard")
        reach("park.done")

    def park_all(self, dataset: str, code: str, message: str) -> None:
        """Put everything aside that waits for a dataset."""
        with self._writing() as database:
            database.execute(
                "INSERT INTO parked SELECT sequence, ?, ?, '', examples, ? FROM shards "
                f"WHERE {_FREE} AND dataset = ?",
                (code, message, time.time(), dataset),
            )

    def retry(self, dataset: str | None = None, *, digest: str | None = None) -> tuple[int, int]:
        """Let parked shards be sent again: (shards, examples)."""
        chosen = Selection(dataset, digest, parked=True)
        with self._writing() as database:
            return chosen.unpark(database)

    def drop(
        self,
        dataset: str | None = None,
        *,
        digest: str | None = None,
        parked: bool = False,
        before: float | None = None,
    ) -> tuple[int, int]:
        """Give up what waits, as if never computed: (shards, examples) dropped.

        Only of a dataset, only one shard, only what is parked, only what was made `before` (wall
        clock, seconds), as far as these are given.
        """
        chosen = Selection(dataset, digest, parked=parked, before=before)
        with self._deleting() as database:
            return chosen.drop(database)

    def forget(self, dataset: str) -> None:
        """Remove everything about a dataset, the ids of its examples too, and its bytes on disk."""
        with self._deleting() as database:
            database.execute("DELETE FROM examples WHERE dataset = ?", (dataset,))
            database.execute(
                "DELETE FROM parked WHERE sequence IN (SELECT sequence FROM shards "
                "WHERE dataset = ?)",
                (dataset,),
            )
            database.execute("DELETE FROM shards WHERE dataset = ?", (dataset,))
            database.execute("DELETE FROM datasets WHERE id = ?", (dataset,))
        with self._lock:
            # Not every SQLite overwrites what it deletes. Without the room for it the bytes stay
            # in the file, as free room that is used next.
            with suppress(sqlite3.OperationalError):
                self._database.execute("VACUUM")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def is_known(self, dataset: str, example: bytes, *, bundle: str = "") -> bool:
        """Whether an example is queued, parked or sent.

        One whose shard was refused because its bundle is gone is not, for another `bundle`.
        """
        return bool(
            self._read(
                "SELECT 1 FROM examples e WHERE dataset = ? AND id = ? AND NOT EXISTS ("
                "SELECT 1 FROM parked p WHERE p.sequence = e.sequence "
                "AND p.code = 'unknown_bundle' AND p.bundle NOT IN (?, ''))",
                (dataset, example, bundle),
            )
        )

    def known_examples(self, dataset: str) -> set[bytes]:
        """Ids of all examples of a dataset that are queued, parked or sent."""
        return {
            row[0] for row in self._read("SELECT id FROM examples WHERE dataset = ?", (dataset,))
        }

    def entries(self, dataset: str | None = None) -> list[Waiting]:
        """Every shard that waits or is parked, oldest first."""
        return Selection(dataset).waiting(self._read)

    def waiting(self) -> list[tuple[str, int, int]]:
        """(dataset, examples, bytes) of what waits and is not parked; reads no sent example."""
        return self._read(
            f"SELECT dataset, sum(examples), sum(size) FROM shards WHERE {_FREE} GROUP BY dataset"
        )

    def queued_bytes(self) -> int:
        """Bytes of all bodies on disk, of parked shards too."""
        query = "SELECT coalesce(sum(size), 0) FROM shards WHERE state = 'queued'"
        return int(self._read(query)[0][0])

    def queued(self, dataset: str | None = None) -> tuple[int, int]:
        """(shards, examples) that wait and are not parked, of one dataset or of all."""
        condition, values = ("", ()) if dataset is None else (" AND dataset = ?", (dataset,))
        query = f"SELECT count(*), coalesce(sum(examples), 0) FROM shards WHERE {_FREE}{condition}"
        row = self._read(query, values)[0]
        return int(row[0]), int(row[1])

    def has_room(self, size: int, limit: int) -> bool:
        """Whether `size` bytes more stay within `limit` and within half of the disk's free room."""
        queued, (page, empty) = self.queued_bytes(), self._pages()
        return queued + size <= allowance(limit, queued, self.path, page * empty)

    def _pages(self) -> tuple[int, int]:
        """(bytes of a page, pages that hold nothing)."""
        size, empty = self._read("PRAGMA page_size"), self._read("PRAGMA freelist_count")
        return int(size[0][0]), int(empty[0][0])


def _insert_shard(database: sqlite3.Connection, dataset: str, shard: NewShard) -> int:
    # One that was sent is sent again if its examples' ids were lost: the server knows its digest.
    row = database.execute(
        "INSERT INTO shards (dataset, digest, state, body, size, examples, tokens, created_at) "
        "VALUES (?, ?, 'queued', ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE "
        "SET state = 'queued', body = excluded.body, created_at = excluded.created_at "
        "WHERE state <> 'queued' RETURNING sequence",
        (
            dataset,
            shard.digest,
            shard.body,
            len(shard.body),
            len(shard.example_ids),
            shard.tokens,
            time.time(),
        ),
    ).fetchone()
    if row is None:
        raise sqlite3.IntegrityError(f"shard {shard.digest} waits already")
    return int(row[0])


def _finish(database: sqlite3.Connection, digest: str, state: str) -> str:
    """Leave state queued; returns the dataset."""
    row = database.execute(
        "UPDATE shards SET state = ?, body = NULL WHERE digest = ? AND state = 'queued' "
        "RETURNING sequence, dataset",
        (state, digest),
    ).fetchone()
    if row is None:
        raise sqlite3.IntegrityError(f"no queued shard {digest}")
    database.execute("DELETE FROM parked WHERE sequence = ?", (row[0],))
    return str(row[1])
