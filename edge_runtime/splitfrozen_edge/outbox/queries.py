"""Which of the waiting shards a command means, and rows that leave a parked shard. Only SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from splitfrozen_edge.outbox.entries import Waiting

_JOINED = "shards s LEFT JOIN parked p USING (sequence)"


@dataclass(frozen=True)
class Selection:
    """Waiting shards: of a dataset, with a digest, parked ones, made before a time."""

    dataset: str | None = None
    digest: str | None = None
    parked: bool = False
    before: float | None = None  # wall clock, seconds

    def waiting(self, read: Callable[[str, Sequence[Any]], list[Any]]) -> list[Waiting]:
        """All of them, oldest first."""
        rows = read(
            "SELECT s.dataset, s.digest, iif(p.sequence IS NULL, 'queued', 'refused'), s.size, "
            "coalesce(p.examples, s.examples), s.tokens, s.created_at, p.code, p.message, "
            f"p.parked_at FROM {_JOINED} WHERE {self._condition()} ORDER BY sequence",
            self._values(),
        )
        return [Waiting(*row) for row in rows]

    def unpark(self, database: sqlite3.Connection) -> tuple[int, int]:
        """Take them out of `parked`: (shards, examples)."""
        sequences, examples = self._find(database)
        for sequence in sequences:
            database.execute(
                "UPDATE shards SET examples = p.examples FROM parked p "
                "WHERE p.sequence = shards.sequence AND p.sequence = ?",
                (sequence,),
            )
            database.execute("DELETE FROM parked WHERE sequence = ?", (sequence,))
        return len(sequences), examples

    def drop(self, database: sqlite3.Connection) -> tuple[int, int]:
        """Delete them and their examples: (shards, examples)."""
        sequences, examples = self._find(database)
        marked = ((sequence,) for sequence in sequences)
        database.execute("CREATE TEMP TABLE chosen (sequence INTEGER PRIMARY KEY)")
        database.executemany("INSERT INTO chosen VALUES (?)", marked)
        database.execute("DELETE FROM examples WHERE sequence IN (SELECT sequence FROM chosen)")
        database.execute("DELETE FROM parked WHERE sequence IN (SELECT sequence FROM chosen)")
        database.execute("DELETE FROM shards WHERE sequence IN (SELECT sequence FROM chosen)")
        database.execute("DROP TABLE chosen")
        return len(sequences), examples

    def _find(self, database: sqlite3.Connection) -> tuple[list[int], int]:
        rows = database.execute(
            f"SELECT sequence, coalesce(p.examples, s.examples) FROM {_JOINED} "
            f"WHERE {self._condition()}",
            self._values(),
        ).fetchall()
        return [row[0] for row in rows], sum(row[1] for row in rows)

    def _condition(self) -> str:
        found = ["s.state = 'queued'"]
        found += ["s.dataset = ?"] * (self.dataset is not None)
        found += ["s.digest = ?"] * (self.digest is not None)
        found += ["p.sequence IS NOT NULL"] * self.parked
        found += ["s.created_at < ?"] * (self.before is not None)
        return " AND ".join(found)

    def _values(self) -> Sequence[Any]:
        given = (self.dataset, self.digest, self.before)
        return [value for value in given if value is not None]


def supersede(database: sqlite3.Connection, dataset: str, example_ids: Sequence[bytes]) -> None:
    """Take examples out of shards that are parked because their bundle is gone.

    Such a shard without examples is deleted: its rows were computed with another bundle.
    """
    gone = "(SELECT sequence FROM parked WHERE code = 'unknown_bundle')"
    if not database.execute(f"SELECT 1 FROM {gone} LIMIT 1").fetchone():
        return
    for example in example_ids:
        row = database.execute(
            f"DELETE FROM examples WHERE dataset = ? AND id = ? AND sequence IN {gone} "
            "RETURNING sequence",
            (dataset, example),
        ).fetchone()
        if row is not None:
            query = "UPDATE parked SET examples = examples - 1 WHERE sequence = ?"
            database.execute(query, row)
    database.execute(
        "DELETE FROM shards WHERE sequence IN "
        "(SELECT sequence FROM parked WHERE code = 'unknown_bundle' AND examples <= 0)"
    )
