"""What a start does about the last stop: finish nothing, delete only halves, miss nothing.

A complete blob or bundle that no row names is most often an upload that was never acknowledged,
but after a restore of an older database it is acknowledged data: it is put aside in
`orphans/`, and taken back by the start that finds a row for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen_server.blobs import PART, BlobStore, flush_directory
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.database.engine import Database
from splitfrozen_server.database.tables import BundleRow, ShardRow
from splitfrozen_server.erasure import finish_erasures
from splitfrozen_server.incoming import Incoming
from splitfrozen_server.jobs.results import file_store


@dataclass(frozen=True)
class Recovered:
    """What was found."""

    parts: int  # interrupted writes, removed
    orphans: int  # blobs and bundles that no row names, put aside now
    returned: int  # blobs and bundles that rows name again, taken back now
    missing: tuple[str, ...]  # digests whose row has no blob: must be empty
    erased: int = 0  # erasures that a crash had cut off, finished now


def recover(database: Database, blobs: BlobStore, config: ServerConfig) -> Recovered:
    """Make blobs, bundles and rows agree; run before the first request, safe to run again."""
    config.bundle_dir.mkdir(exist_ok=True)
    erased = finish_erasures(database, blobs, config)  # first: what it deletes is no orphan
    parts = blobs.delete_parts() + file_store(config).delete_parts()
    parts += _delete_bundle_parts(config.bundle_dir)
    incoming = Incoming(config.incoming_dir)
    parts += incoming.delete_parts() + incoming.drop_stale()
    parts += sum(
        incoming.drop(tenant, name)  # a kill came between its row and its end
        for tenant, name in database.read_sync(_bundle_keys)
        if (config.bundle_dir / name).exists()
    )
    published, needed = database.read_sync(_bundle_ids), database.read_sync(_digests)
    aside = config.orphan_dir
    returned = _move(
        (aside / "blobs" / digest, blobs.path(digest)) for digest in needed - set(blobs.keys())
    ) + _move(
        (aside / "bundles" / name, config.bundle_dir / name)
        for name in published
        if not (config.bundle_dir / name).exists()
    )
    stored = set(blobs.keys())
    orphans = _move(
        (blobs.path(digest), aside / "blobs" / digest) for digest in stored - needed
    ) + _move(
        (path, aside / "bundles" / path.name)
        for path in list(config.bundle_dir.iterdir())
        if path.name not in published
    )
    return Recovered(parts, orphans, returned, tuple(sorted(needed - stored)), erased)


def _delete_bundle_parts(bundle_dir: Path) -> int:
    """Remove copies that publishing had not finished; an upload keeps its own files."""
    parts = list(bundle_dir.glob(f"*{PART}"))
    for part in parts:
        shutil.rmtree(part)
    return len(parts)


def _move(places: Iterable[tuple[Path, Path]]) -> int:
    """Move what is there to where nothing is; returns how many. Nothing is ever replaced."""
    touched: set[Path] = set()
    count = 0
    for source, target in places:
        if not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        free = _free_name(target)
        shutil.move(source, free)  # a rename, or a copy where blobs have a disk of their own
        touched |= {source.parent, free.parent, free.parent.parent}
        count += 1
    for directory in touched:
        flush_directory(directory)
    return count


def _free_name(path: Path) -> Path:
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def _bundle_ids(session: Session) -> set[str]:
    return set(session.scalars(select(BundleRow.id)))


def _bundle_keys(session: Session) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in session.execute(select(BundleRow.tenant_id, BundleRow.id))]


def _digests(session: Session) -> set[str]:
    return set(session.scalars(select(ShardRow.digest)))
