"""Erasure as rows: what one transaction removes, and the list of bytes that must follow.

Work functions for `Database`. From their commit on nothing of the data is visible; `erasure` then
deletes the bytes that `erased_blobs` and `erasures` name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, literal, select, update
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.database.tables import (
    DatasetRow,
    DeviceRow,
    ErasedBlobRow,
    ErasureRow,
    ExampleRow,
    ShardRow,
)
from splitfrozen_server.datasets import delete_dataset, find_dataset
from splitfrozen_server.identifiers import new_id, now
from splitfrozen_server.jobs.erased import interrupt_jobs


@dataclass(frozen=True)
class Erased:
    """What was erased, and who had seen it."""

    shards: int
    examples: int
    bytes: int  # uncompressed
    adapters: list[str]  # trained on anything that this device ever had erased
    jobs_stopped: list[str]  # ids


@dataclass(frozen=True)
class Pending:
    """An erasure whose rows are gone and whose bytes may not be."""

    id: str
    datasets: list[str]  # ids; the worker's copies of them must go
    jobs: list[str]  # ids; so must their checkpoints


def erase_device_rows(session: Session, tenant: str, device_id: str, dataset: str | None) -> None:
    """Remove a device's shards, of one dataset (id or name) or of all, and what follows from it.

    Sequence numbers are never given again, so the admission logs of other jobs stay true. Raises
    `not_found` for an unknown device or dataset.
    """
    device = session.get(DeviceRow, device_id)
    if device is None or device.tenant_id != tenant:
        raise RefusedError("not_found", f"there is no device {device_id[:80]!r}")
    theirs = [ShardRow.device_id == device_id, ShardRow.tenant_id == tenant]
    if dataset is not None:
        theirs.append(ShardRow.dataset_id == find_dataset(session, tenant, dataset).id)
    totals = select(
        ShardRow.dataset_id,
        func.count(),
        func.sum(ShardRow.examples),
        func.sum(ShardRow.tokens),
        func.sum(ShardRow.size),
        func.min(ShardRow.sequence),
    )
    found = session.execute(totals.where(*theirs).group_by(ShardRow.dataset_id)).all()
    if not found:
        return
    erasure = _record(session, tenant, device_id, [row[0] for row in found])
    for dataset_id, shards, examples, tokens, size, first in found:
        _list_blobs(session, erasure, dataset_id, device_id)
        adapters, stopped = interrupt_jobs(session, erasure.id, dataset_id, first)
        erasure.adapters = erasure.adapters + adapters
        erasure.jobs_stopped = erasure.jobs_stopped + stopped
        own = (ShardRow.dataset_id == dataset_id, ShardRow.device_id == device_id)
        session.execute(
            delete(ExampleRow).where(
                ExampleRow.dataset_id == dataset_id,
                ExampleRow.sequence.in_(select(ShardRow.sequence).where(*own)),
            )
        )
        session.execute(delete(ShardRow).where(*own))
        row = session.get_one(DatasetRow, dataset_id)
        row.shards, row.examples = row.shards - shards, row.examples - examples
        row.tokens, row.bytes = row.tokens - tokens, row.bytes - size
        erasure.shards, erasure.examples = erasure.shards + shards, erasure.examples + examples
        erasure.bytes += size
    session.flush()


def erase_dataset_rows(session: Session, tenant: str, key: str) -> str:
    """Remove a dataset with all rows; returns its id. Raises `in_use` for an unfinished job's."""
    row = find_dataset(session, tenant, key)
    erasure = _record(session, tenant, None, [row.id])
    erasure.shards, erasure.examples, erasure.bytes = row.shards, row.examples, row.bytes
    _list_blobs(session, erasure, row.id, None)
    return delete_dataset(session, tenant, key)


def unfinished_of(session: Session, device_id: str) -> list[str]:
    """Ids of a device's erasures whose bytes may still be there."""
    query = select(ErasureRow.id).where(
        ErasureRow.device_id == device_id, ErasureRow.finished_at.is_(None)
    )
    return list(session.scalars(query))


def pending_erasures(session: Session) -> list[Pending]:
    """All erasures whose bytes may still be there, oldest first."""
    query = select(ErasureRow).where(ErasureRow.finished_at.is_(None))
    rows = session.scalars(query.order_by(ErasureRow.created_at, ErasureRow.id))
    return [Pending(row.id, row.datasets, row.jobs_stopped) for row in rows]


def blobs_of(session: Session, erasure_id: str) -> list[str]:
    """Digests that an erasure has still listed."""
    query = select(ErasedBlobRow.digest).where(ErasedBlobRow.erasure_id == erasure_id)
    return list(session.scalars(query))


def finish(session: Session, erasure_id: str) -> None:
    """Every byte is gone; finishing twice changes nothing."""
    session.execute(delete(ErasedBlobRow).where(ErasedBlobRow.erasure_id == erasure_id))
    session.execute(
        update(ErasureRow)
        .where(ErasureRow.id == erasure_id, ErasureRow.finished_at.is_(None))
        .values(finished_at=now())
    )


def summary(session: Session, device_id: str, counted: Sequence[str]) -> Erased:
    """The sum of the erasures `counted`; adapters of all erasures of the device."""
    rows = session.scalars(select(ErasureRow).where(ErasureRow.device_id == device_id)).all()
    chosen = [row for row in rows if row.id in set(counted)]
    return Erased(
        shards=sum(row.shards for row in chosen),
        examples=sum(row.examples for row in chosen),
        bytes=sum(row.bytes for row in chosen),
        adapters=sorted({name for row in rows for name in row.adapters}),
        jobs_stopped=sorted({job for row in chosen for job in row.jobs_stopped}),
    )


def _record(
    session: Session, tenant: str, device_id: str | None, datasets: list[str]
) -> ErasureRow:
    erasure = ErasureRow(
        id=new_id("era_"),
        tenant_id=tenant,
        device_id=device_id,
        datasets=datasets,
        shards=0,
        examples=0,
        bytes=0,
        adapters=[],
        jobs_stopped=[],
        created_at=now(),
    )
    session.add(erasure)
    session.flush()
    return erasure


def _list_blobs(
    session: Session, erasure: ErasureRow, dataset_id: str, device_id: str | None
) -> None:
    listed = select(literal(erasure.id), ShardRow.digest, ShardRow.tenant_id).where(
        ShardRow.dataset_id == dataset_id
    )
    if device_id is not None:
        listed = listed.where(ShardRow.device_id == device_id)
    # One digest may be in two datasets of one erasure.
    known = select(ErasedBlobRow.digest).where(ErasedBlobRow.erasure_id == erasure.id)
    listed = listed.where(ShardRow.digest.not_in(known))
    columns = ["erasure_id", "digest", "tenant_id"]
    session.execute(insert(ErasedBlobRow).from_select(columns, listed))
