"""What the device remembers beside its shards: datasets, and where bundles are."""

from __future__ import annotations

import time
from pathlib import Path

from splitfrozen_edge.outbox.database import Database
from splitfrozen_edge.outbox.entries import DatasetState


class Catalog(Database):
    """Datasets and bundles of the outbox's file."""

    def remember_dataset(self, dataset: str, name: str, bundle: str) -> None:
        """Keep a dataset's name and the bundle that feeds it."""
        with self._writing() as database:
            database.execute(
                "INSERT INTO datasets VALUES (?, ?, ?) ON CONFLICT (id) "
                "DO UPDATE SET name = excluded.name, bundle = excluded.bundle",
                (dataset, name, bundle),
            )

    def dataset_bundle(self, dataset: str) -> str | None:
        """Id of the bundle that this device last used for a dataset; None: choose one anew."""
        rows = self._read("SELECT bundle FROM datasets WHERE id = ?", (dataset,))
        return str(rows[0][0]) if rows and rows[0][0] else None

    def forget_bundle_of(self, dataset: str) -> None:
        """Let the next push choose the dataset's bundle anew."""
        with self._writing() as database:
            database.execute("UPDATE datasets SET bundle = '' WHERE id = ?", (dataset,))

    def remember_bundle(self, bundle: str, directory: Path) -> None:
        """Keep where a bundle is on this device; it becomes the last used one."""
        with self._writing() as database:
            # Later than all others even if the clock has been set back.
            (newest,) = database.execute("SELECT max(used_at) FROM bundles").fetchone()
            used_at = time.time() if newest is None else max(time.time(), newest + 0.001)
            database.execute(
                "INSERT INTO bundles VALUES (?, ?, ?) ON CONFLICT (id) "
                "DO UPDATE SET directory = excluded.directory, used_at = excluded.used_at",
                (bundle, str(directory), used_at),
            )

    def bundles(self) -> list[tuple[str, Path]]:
        """(id, directory) of the bundles used on this device, the last used first."""
        rows = self._read("SELECT id, directory FROM bundles ORDER BY used_at DESC")
        return [(row[0], Path(row[1])) for row in rows]

    def datasets(self) -> list[DatasetState]:
        """Every dataset with its counts."""
        return [DatasetState(*row) for row in self._read(_COUNTS)]


_COUNTS = """
WITH waiting AS (
    SELECT s.dataset, s.size, s.examples, p.examples AS kept, p.sequence IS NOT NULL AS parked,
        s.created_at
    FROM shards s LEFT JOIN parked p USING (sequence) WHERE s.state = 'queued'
), counts AS (
    SELECT dataset,
        coalesce(sum(NOT parked), 0) AS shards,
        coalesce(sum(examples) FILTER (WHERE NOT parked), 0) AS examples,
        coalesce(sum(size) FILTER (WHERE NOT parked), 0) AS bytes,
        coalesce(sum(parked), 0) AS parked_shards,
        coalesce(sum(kept), 0) AS parked_examples,
        coalesce(sum(size) FILTER (WHERE parked), 0) AS parked_bytes,
        min(created_at) AS oldest
    FROM waiting GROUP BY dataset
)
SELECT d.id, d.name, d.bundle,
    coalesce(c.shards, 0), coalesce(c.examples, 0), coalesce(c.bytes, 0),
    (SELECT count(*) FROM shards s WHERE s.dataset = d.id AND s.state = 'acked'),
    (SELECT count(*) FROM examples e WHERE e.dataset = d.id)
        - coalesce(c.examples, 0) - coalesce(c.parked_examples, 0),
    coalesce(c.parked_shards, 0), coalesce(c.parked_examples, 0), coalesce(c.parked_bytes, 0),
    c.oldest
FROM datasets d LEFT JOIN counts c ON c.dataset = d.id ORDER BY d.name
"""
