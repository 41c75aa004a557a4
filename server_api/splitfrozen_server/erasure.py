"""Erasing what a device brought, or a dataset: rows first and at once, then every byte of it.

A kill in between loses nothing: the list of bytes is in the database, and the next start, or the
same request again, works it off. While a dataset is on that list no job on it is given out, so the
worker makes no copy anew.

Copies that this cannot reach: backups, `orphans/` after the restore of an older database, and
adapters, which are named.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from splitfrozen_server.blobs import BlobStore, flush_directory
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.database.engine import Database
from splitfrozen_server.erased_rows import (
    Erased,
    Pending,
    blobs_of,
    erase_dataset_rows,
    erase_device_rows,
    finish,
    pending_erasures,
    summary,
    unfinished_of,
)
from splitfrozen_server.services import Services
from splitfrozen_server.shards import blob_is_needed
from splitfrozen_server.worker.places import dataset_directory, job_directory

_TRIES = 10


async def erase_device(
    services: Services, tenant: str, device_id: str, dataset: str | None = None
) -> Erased:
    """Erase a device's shards, of one dataset (id or name) or of all; returns when no byte is left.

    Asked again, it finishes what a crash cut off, and counts that. Raises `not_found`.
    """
    async with services.erasing:
        await services.database.write(
            lambda session: erase_device_rows(session, tenant, device_id, dataset)
        )
        counted = await services.database.read(partial(unfinished_of, device_id=device_id))
        await _finish(services, lambda erasure: erasure.id in counted)
        return await services.database.read(lambda session: summary(session, device_id, counted))


async def erase_dataset(services: Services, tenant: str, key: str) -> str:
    """Erase a dataset (id or name) and return its id. Raises `not_found` and `in_use`."""
    async with services.erasing:
        dataset_id = await services.database.write(
            lambda session: erase_dataset_rows(session, tenant, key)
        )
        await _finish(services, lambda erasure: dataset_id in erasure.datasets)
    return dataset_id


async def _finish(services: Services, is_asked: Callable[[Pending], bool]) -> None:
    """Delete the bytes of the erasures that were asked for: what fails of others fails there.

    An upload of the same bytes takes turns with this, so what comes afterwards stays.
    """
    database = services.database
    for erasure in filter(is_asked, await database.read(pending_erasures)):
        digests = await database.read(partial(blobs_of, erasure_id=erasure.id))
        for digest in digests:
            async with services.digest_locks.hold(digest):
                await asyncio.to_thread(
                    _erase_blob, database, services.blobs, services.config, digest
                )
        await asyncio.to_thread(_close, database, services.blobs, services.config, erasure, digests)


def finish_erasures(database: Database, blobs: BlobStore, config: ServerConfig) -> int:
    """Do the same at a start, before the first upload; returns how many had been cut off."""
    pending = database.read_sync(pending_erasures)
    for erasure in pending:
        digests = database.read_sync(partial(blobs_of, erasure_id=erasure.id))
        for digest in digests:
            _erase_blob(database, blobs, config, digest)
        _close(database, blobs, config, erasure, digests)
    return len(pending)


def _erase_blob(database: Database, blobs: BlobStore, config: ServerConfig, digest: str) -> None:
    """Delete a blob, and what an earlier start put aside of it, unless another shard needs it."""
    if database.read_sync(partial(blob_is_needed, digest=digest)):
        return
    blobs.delete(digest)
    for path in (config.orphan_dir / "blobs").glob(f"{digest}*"):
        path.unlink(missing_ok=True)


def _close(
    database: Database,
    blobs: BlobStore,
    config: ServerConfig,
    erasure: Pending,
    digests: Iterable[str],
) -> None:
    """Delete derived files, make all deletions durable, and only then say that it is done."""
    erase_derived(config.data_dir, erasure)
    for directory in {blobs.path(digest).parent for digest in digests}:
        flush_directory(directory)
    database.write_sync(partial(finish, erasure_id=erasure.id))


def erase_derived(data_dir: Path, erasure: Pending) -> None:
    """Delete the worker's copies of the datasets and the checkpoints of the jobs that ended.

    Nobody holds a lease on a job of these datasets now. A worker that has not noticed yet cannot
    write into a dataset; a checkpoint that it is just writing it deletes itself once it notices.
    """
    places = [dataset_directory(data_dir / "worker", dataset) for dataset in erasure.datasets]
    places += [job_directory(data_dir / "worker", job) for job in erasure.jobs]
    for place in places:
        _remove(place)
        if place.parent.exists():
            flush_directory(place.parent)


def _remove(place: Path) -> None:
    """A worker that is just writing there may leave one more file; its next write fails."""
    for _ in range(_TRIES):
        shutil.rmtree(place, ignore_errors=True)
        if not place.exists():
            return
    raise OSError(f"{place} cannot be deleted; ask again, or start the server again")
