"""Activation datasets as rows: find, create, label, seal, delete. Work functions for `Database`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.database.job_tables import JobRow
from splitfrozen_server.database.tables import (
    BaseModelRow,
    DatasetRow,
    LabelRow,
    ShardRow,
)
from splitfrozen_server.identifiers import new_id, now

ID_PREFIX = "ds_"


@dataclass(frozen=True)
class DatasetRecord:
    """A dataset as people ask for it."""

    row: DatasetRow
    base_model: str  # name
    labels: list[str]  # in the order of their ids
    devices: int  # that contributed at least one shard


def find_dataset(session: Session, tenant: str, key: str) -> DatasetRow:
    """The dataset with this id or name; `not_found` if there is none."""
    column = DatasetRow.id if key.startswith(ID_PREFIX) else DatasetRow.name
    row = session.scalar(select(DatasetRow).where(DatasetRow.tenant_id == tenant, column == key))
    if row is None:
        raise RefusedError("not_found", f"there is no dataset {key[:80]!r}", param="dataset")
    return row


def describe(session: Session, row: DatasetRow) -> DatasetRecord:
    """Add what other tables know."""
    base_model = session.get_one(BaseModelRow, row.base_model_id).name
    devices = session.scalar(
        select(func.count(ShardRow.device_id.distinct())).where(ShardRow.dataset_id == row.id)
    )
    return DatasetRecord(row, base_model, read_labels(session, row.id), devices or 0)


def list_datasets(session: Session, tenant: str) -> list[DatasetRecord]:
    """All datasets of a tenant, oldest first."""
    rows = session.scalars(
        select(DatasetRow)
        .where(DatasetRow.tenant_id == tenant)
        .order_by(DatasetRow.created_at, DatasetRow.id)
    )
    return [describe(session, row) for row in rows.all()]


def insert_dataset(session: Session, row: DatasetRow, labels: Sequence[str]) -> DatasetRow:
    """Add a dataset with its first labels; `name_taken` if another has the name."""
    taken = select(DatasetRow.id).where(
        DatasetRow.tenant_id == row.tenant_id, DatasetRow.name == row.name
    )
    if (holder := session.scalar(taken)) is not None:
        raise RefusedError(
            "name_taken",
            f"dataset {holder} already has the name {row.name!r}",
            param="name",
            details={"id": holder},
        )
    row.id = new_id(ID_PREFIX)
    row.created_at = now()
    session.add(row)
    session.flush()
    _insert_labels(session, row, labels, start=0)
    return row


def read_labels(session: Session, dataset_id: str) -> list[str]:
    """Label names in the order of their ids."""
    found = session.scalars(
        select(LabelRow.name).where(LabelRow.dataset_id == dataset_id).order_by(LabelRow.position)
    )
    return list(found)


def append_labels(
    session: Session, tenant: str, key: str, names: Sequence[str], *, limit: int
) -> list[str]:
    """Append the unknown ones of `names` in their order; returns the whole list.

    Runs on the one writer, so two devices that bring the same name get the same id. Raises
    `unknown_label` for a closed list, `dataset_sealed` for a sealed dataset.
    """
    row = find_dataset(session, tenant, key)
    if row.task != "classification":
        raise RefusedError("invalid_request", f"a {row.task} dataset has no labels", param="names")
    known = read_labels(session, row.id)
    new = [name for name in dict.fromkeys(names) if name not in set(known)]
    if not new:
        return known
    if not row.open_labels:
        raise RefusedError(
            "unknown_label",
            f"dataset {row.name!r} is closed and has no label {new[0]!r}; it has: "
            + ", ".join(known[:20]),
            param="names",
            details={"labels": new},
        )
    if row.sealed_at is not None:
        raise RefusedError("dataset_sealed", f"dataset {row.name!r} is sealed")
    if len(known) + len(new) > limit:
        raise RefusedError(
            "invalid_request", f"a dataset has at most {limit} labels", param="names"
        )
    _insert_labels(session, row, new, start=len(known))
    return known + new


def seal_dataset(session: Session, tenant: str, key: str) -> DatasetRow:
    """End the uploads of a dataset; sealing again changes nothing."""
    row = find_dataset(session, tenant, key)
    if row.sealed_at is None:
        row.sealed_at = now()
    return row


def seal_idle(session: Session, uptime: float) -> list[str]:
    """Seal every dataset whose last shard is older than its idle time; returns their names.

    `uptime` is how many seconds devices could reach this server: the idle time begins at the
    last shard or at the start, whichever is later. A dataset without a shard waits for its first.
    """
    rows = session.scalars(
        select(DatasetRow).where(
            DatasetRow.sealed_at.is_(None),
            DatasetRow.idle_seal.is_not(None),
            DatasetRow.last_shard_at + DatasetRow.idle_seal <= time.time(),
            DatasetRow.idle_seal <= uptime,
        )
    ).all()
    for row in rows:
        row.sealed_at = now()
    return [row.name for row in rows]


def delete_dataset(session: Session, tenant: str, key: str) -> str:
    """Remove a dataset with all rows; returns its id. Its blobs are `erasure`'s.

    Raises `in_use` while an unfinished job uses it.
    """
    row = find_dataset(session, tenant, key)
    in_use = select(JobRow.id).where(
        or_(JobRow.training_dataset_id == row.id, JobRow.validation_dataset_id == row.id),
        JobRow.finished_at.is_(None),
    )
    if (job := session.scalar(in_use.limit(1))) is not None:
        raise RefusedError(
            "in_use", f"job {job} uses dataset {row.name!r}; cancel it first", param="dataset"
        )
    session.execute(delete(DatasetRow).where(DatasetRow.id == row.id))
    return row.id


def _insert_labels(session: Session, row: DatasetRow, names: Sequence[str], *, start: int) -> None:
    session.add_all(
        LabelRow(dataset_id=row.id, tenant_id=row.tenant_id, position=position, name=name)
        for position, name in enumerate(names, start)
    )
    session.flush()
