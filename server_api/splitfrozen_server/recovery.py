"""What a start does about the last stop: sweep up what was never acknowledged, miss nothing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen_server.blobs import BlobStore
from splitfrozen_server.database.engine import Database
from splitfrozen_server.database.tables import BundleRow, ShardRow


@dataclass(frozen=True)
class Recovered:
    """What was found."""

    parts: int  # interrupted writes, removed
    orphans: int  # blobs that no row names, removed: their uploads were never acknowledged
    missing: tuple[str, ...]  # digests whose row has no blob: must be empty


def recover(database: Database, blobs: BlobStore, bundle_dir: Path) -> Recovered:
    """Make blobs, bundles and rows agree; run before the first request, safe to run again."""
    _remove_bundles(bundle_dir, database.read_sync(_bundle_ids))
    parts = blobs.delete_parts()
    needed = database.read_sync(_digests)
    stored = set(blobs.keys())
    orphans = stored - needed
    for digest in orphans:
        blobs.delete(digest)
    return Recovered(parts, len(orphans), tuple(sorted(needed - stored)))


def _remove_bundles(bundle_dir: Path, published: set[str]) -> None:
    """Remove copies whose publishing was interrupted before the row."""
    bundle_dir.mkdir(exist_ok=True)
    for path in bundle_dir.iterdir():
        if path.name not in published:
            shutil.rmtree(path)


def _bundle_ids(session: Session) -> set[str]:
    return set(session.scalars(select(BundleRow.id)))


def _digests(session: Session) -> set[str]:
    return set(session.scalars(select(ShardRow.digest)))
