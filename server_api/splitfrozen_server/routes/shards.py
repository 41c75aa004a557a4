"""Shards: store one by its SHA-256, ask for one, list."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel

from splitfrozen.errors import RefusedError, SplitFrozenError
from splitfrozen_server.auth import Admin, AdminOrDevice, Device, Identity
from splitfrozen_server.database.tables import ShardRow
from splitfrozen_server.datasets import find_dataset
from splitfrozen_server.ingest import store
from splitfrozen_server.routes.shapes import MAX_INTEGER, SHARD_BODY, Page
from splitfrozen_server.services import Services, Use
from splitfrozen_server.shards import Arrival, find_shard, list_shards
from splitfrozen_server.uploads import check_space, receive_shard

router = APIRouter(prefix="/v1/activation_datasets/{dataset}/shards", tags=["shards"])

Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]  # SHA-256 of the uncompressed body


class Receipt(BaseModel):
    """Proof that a shard is stored durably: only now the device may delete its copy."""

    id: str
    object: Literal["shard"] = "shard"
    digest: str
    dataset: str
    device: str
    bundle: str
    codec: str
    size: int  # bytes, uncompressed
    examples: int
    tokens: int
    sequence: int  # place within the dataset, from 1
    created_at: int


@router.put("/{sha256}", status_code=201, openapi_extra=SHARD_BODY)
async def put_shard(
    dataset: str,
    sha256: Digest,
    request: Request,
    caller: Device,
    services: Use,
    response: Response,
) -> Receipt:
    """Store a shard. 201: stored now; 200: it was there already, here is its first receipt."""
    try:
        row, is_new = await _receive(dataset, sha256, request, caller, services)
    except SplitFrozenError as error:
        services.metrics.shards.labels(error.code).inc()
        raise
    _count(services, row, is_new=is_new)
    response.status_code = 201 if is_new else 200
    return _receipt(row)


@router.head("/{sha256}", response_class=Response)
async def head_shard(
    dataset: str, sha256: Digest, caller: AdminOrDevice, services: Use
) -> Response:
    """200 if the shard is stored, 404 if not, or if its bytes were lost."""
    row = await services.database.read(
        lambda session: find_shard(session, caller.tenant_id, dataset, sha256)
    )
    stored = row is not None and await asyncio.to_thread(services.blobs.has, sha256)
    return Response(status_code=200 if stored else 404)


@router.get("")
async def get_shards(
    dataset: str,
    caller: Admin,
    services: Use,
    after: Annotated[int, Query(ge=0, le=MAX_INTEGER)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[Receipt]:
    """Shards in the order of admission, after a sequence number."""
    rows = await services.database.read(
        lambda session: list_shards(
            session, caller.tenant_id, dataset, after=after, limit=limit + 1
        )
    )
    return Page(data=[_receipt(row) for row in rows[:limit]], has_more=len(rows) > limit)


async def _receive(
    dataset: str, sha256: str, request: Request, caller: Identity, services: Services
) -> tuple[ShardRow, bool]:
    """Refuse what headers and rows already tell, then read the body, then store it."""
    await services.database.read(
        lambda session: find_dataset(session, caller.tenant_id, dataset).id
    )
    check_space(services.config)
    if caller.device_id is None:
        raise RefusedError("forbidden", "the token belongs to no device")
    slots = services.upload_slots
    async with receive_shard(request, services, slots, expected=sha256) as (body, shard):
        arrival = Arrival(caller.tenant_id, dataset, caller.device_id, sha256, len(body), shard)
        return await store(services, arrival, body)


def _count(services: Services, row: ShardRow, *, is_new: bool) -> None:
    services.metrics.shards.labels("accepted" if is_new else "repeated").inc()
    if is_new:
        services.metrics.shard_bytes.inc(row.size)
        services.metrics.examples.inc(row.examples)


def _receipt(row: ShardRow) -> Receipt:
    return Receipt(
        id=row.id,
        digest=row.digest,
        dataset=row.dataset_id,
        device=row.device_id,
        bundle=row.bundle_id,
        codec=row.codec,
        size=row.size,
        examples=row.examples,
        tokens=row.tokens,
        sequence=row.sequence,
        created_at=row.created_at,
    )
