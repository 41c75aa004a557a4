"""Shards and examples as rows: look up, admit. Work functions for `Database`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen.wire import Shard
from splitfrozen_server.admission import Published, Target, check_dataset
from splitfrozen_server.database.tables import (
    BundleRow,
    DatasetRow,
    DeviceRow,
    ExampleRow,
    LabelRow,
    ShardRow,
)
from splitfrozen_server.datasets import find_dataset
from splitfrozen_server.identifiers import new_id, now

_LOOKUP = 5000  # ids in one query


@dataclass(frozen=True)
class Arrival:
    """A decoded shard and where it came from."""

    tenant: str
    dataset: str  # id or name, from the URL
    device: str
    digest: str
    size: int  # bytes, uncompressed
    shard: Shard


def find_bundle(session: Session, tenant: str, bundle: str) -> Published | None:
    """What admission needs to know of a bundle."""
    row = session.get(BundleRow, (tenant, bundle))
    if row is None:
        return None
    return Published(row.base_model_id, row.cut, row.hidden_size, row.vocab_size, row.max_length)


def find_shard(session: Session, tenant: str, dataset: str, digest: str) -> ShardRow | None:
    """The stored shard with this digest in a dataset (id or name)."""
    row = find_dataset(session, tenant, dataset)
    query = select(ShardRow).where(ShardRow.dataset_id == row.id, ShardRow.digest == digest)
    return session.scalar(query)


def list_shards(
    session: Session, tenant: str, dataset: str, *, after: int, limit: int
) -> list[ShardRow]:
    """Shards of a dataset by sequence number, after one of them."""
    row = find_dataset(session, tenant, dataset)
    query = (
        select(ShardRow)
        .where(ShardRow.dataset_id == row.id, ShardRow.sequence > after)
        .order_by(ShardRow.sequence)
        .limit(limit)
    )
    return list(session.scalars(query))


def blob_is_needed(session: Session, digest: str) -> bool:
    """Whether any row refers to a blob."""
    return session.scalar(select(ShardRow.id).where(ShardRow.digest == digest).limit(1)) is not None


def check_arrival(session: Session, arrival: Arrival) -> ShardRow | None:
    """The row of a shard that is already stored, or None if this one may be.

    Changes nothing. Raises what `check_dataset` raises, and `duplicate_example`.
    """
    dataset = find_dataset(session, arrival.tenant, arrival.dataset)
    query = select(ShardRow).where(
        ShardRow.dataset_id == dataset.id, ShardRow.digest == arrival.digest
    )
    if (stored := session.scalar(query)) is not None:
        return stored
    bundle = find_bundle(session, arrival.tenant, arrival.shard.bundle)
    check_dataset(arrival.shard, _target(session, dataset), bundle)
    _check_duplicates(session, dataset.id, _example_ids(arrival.shard))
    return None


def admit(session: Session, arrival: Arrival) -> tuple[ShardRow, bool]:
    """Insert the rows of a shard whose blob is stored; False with the first row if it is known.

    Repeats every check, since another upload may have come between: this runs on the one writer.
    """
    if (stored := check_arrival(session, arrival)) is not None:
        return stored, False
    dataset = find_dataset(session, arrival.tenant, arrival.dataset)
    row = _insert_shard(session, dataset, arrival)
    session.execute(insert(ExampleRow), _example_rows(row, arrival.shard))
    return row, True


def _insert_shard(session: Session, dataset: DatasetRow, arrival: Arrival) -> ShardRow:
    shard = arrival.shard
    bundle = session.get_one(BundleRow, (arrival.tenant, shard.bundle))
    dataset.shards += 1
    dataset.last_sequence += 1
    dataset.examples += shard.examples
    dataset.tokens += shard.tokens
    dataset.bytes += arrival.size
    dataset.last_shard_at = time.time()
    if dataset.max_examples is not None and dataset.examples >= dataset.max_examples:
        dataset.sealed_at = now()
    session.get_one(DeviceRow, arrival.device).last_seen_at = now()
    row = ShardRow(
        id=new_id("shard_"),
        tenant_id=arrival.tenant,
        dataset_id=dataset.id,
        sequence=dataset.last_sequence,
        digest=arrival.digest,
        device_id=arrival.device,
        bundle_id=shard.bundle,
        codec=shard.codec,
        precision=bundle.precision,
        size=arrival.size,
        examples=shard.examples,
        tokens=shard.tokens,
        created_at=now(),
    )
    session.add(row)
    session.flush()
    return row


def _example_rows(row: ShardRow, shard: Shard) -> list[dict[str, object]]:
    labels = shard.labels.tolist() if shard.labels is not None else [None] * shard.examples
    return [
        {
            "dataset_id": row.dataset_id,
            "id": identity,
            "tenant_id": row.tenant_id,
            "sequence": row.sequence,
            "position": position,
            "tokens": tokens,
            "label": label,
        }
        for position, (identity, tokens, label) in enumerate(
            zip(_example_ids(shard), shard.lengths.tolist(), labels, strict=True)
        )
    ]


def _example_ids(shard: Shard) -> list[bytes]:
    assert shard.example_ids is not None  # every task of a dataset has them
    return [row.tobytes() for row in shard.example_ids]


def _check_duplicates(session: Session, dataset_id: str, ids: Sequence[bytes]) -> None:
    known: list[bytes] = []
    for start in range(0, len(ids), _LOOKUP):
        part = ids[start : start + _LOOKUP]
        query = select(ExampleRow.id).where(
            ExampleRow.dataset_id == dataset_id, ExampleRow.id.in_(part)
        )
        known += session.scalars(query)
    if known:
        raise RefusedError(
            "duplicate_example",
            f"{len(known)} of {len(ids)} examples are stored by another shard already",
            param="example_ids",
            details={"example_ids": sorted(found.hex() for found in known)},
        )


def _target(session: Session, dataset: DatasetRow) -> Target:
    count = select(func.count()).where(LabelRow.dataset_id == dataset.id)
    return Target(
        id=dataset.id,
        base_model_id=dataset.base_model_id,
        cut=dataset.cut,
        task=dataset.task,
        labels=session.scalar(count) or 0,
        sealed=dataset.sealed_at is not None,
    )
