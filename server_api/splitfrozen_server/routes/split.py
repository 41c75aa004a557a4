"""Split inference: the device ran the lower blocks, the server runs the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen.errors import CODES, RefusedError
from splitfrozen.wire import Shard
from splitfrozen_server.admission import check_bundle, require_bundle
from splitfrozen_server.auth import Identity, require
from splitfrozen_server.database.job_tables import FileRow
from splitfrozen_server.database.tables import BaseModelRow
from splitfrozen_server.jobs.names import find_adapter
from splitfrozen_server.jobs.results import file_store
from splitfrozen_server.services import Services, get_services
from splitfrozen_server.shards import find_bundle
from splitfrozen_server.uploads import receive_shard

router = APIRouter(prefix="/v1/split", tags=["split inference"])

Caller = Annotated[Identity, Depends(require("admin", "device"))]
Injected = Annotated[Services, Depends(get_services)]

TIMEOUT = httpx.Timeout(120.0, connect=5.0)  # seconds; the first request loads the model
MAX_SCORES = 200_000  # examples x labels of one answer


@dataclass(frozen=True)
class Target:
    """The adapter that answers, and what the worker needs to load it."""

    name: str
    base_model_id: str
    cut: int
    task: str
    labels: int
    digest: str  # of the packed adapter
    base_path: str
    trust_remote_code: bool


@router.post(
    "/classifications",
    openapi_extra={
        "requestBody": {
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            }
        }
    },
)
async def classify(
    request: Request,
    identity: Caller,
    services: Injected,
    model: Annotated[str, Query(description="ft:… name of a classification adapter")],
) -> dict[str, Any]:
    """Label probabilities of every example of a shard of task `inference`."""
    target = await services.database.read(lambda s: _find_target(s, identity.tenant_id, model))
    if target.task != "classification":
        raise RefusedError(
            "model_not_ready", f"{target.name} generates text, it does not classify", param="model"
        )
    slots = services.inference_slots
    async with receive_shard(request, services, slots, expected=None) as (body, shard):
        await services.database.read(lambda s: _check(s, identity.tenant_id, shard, target))
        _check_size(shard, target)
        answer = await _ask_worker(services, target, body)
    return {
        "object": "split.classifications",
        "model": target.name,
        "data": [_entry(answer["labels"], row) for row in answer["probabilities"]],
    }


def _find_target(session: Session, tenant: str, name: str) -> Target:
    job = find_adapter(session, tenant, name)
    if job is None:
        query = select(BaseModelRow.id).where(
            BaseModelRow.tenant_id == tenant, BaseModelRow.name == name
        )
        if session.scalar(query) is not None:
            raise RefusedError(
                "model_not_ready",
                f"{name!r} is a base model and has no labels; name an adapter (ft:…)",
                param="model",
            )
        raise RefusedError("not_found", f"there is no model {name[:120]!r}", param="model")
    base = session.get_one(BaseModelRow, job.base_model_id)
    packed = select(FileRow.sha256).where(FileRow.job_id == job.id, FileRow.purpose == "adapter")
    return Target(
        name=job.fine_tuned_model,
        base_model_id=job.base_model_id,
        cut=job.cut,
        task=job.task,
        labels=len((job.start or {}).get("labels", [])),
        digest=session.scalars(packed).one(),
        base_path=base.path,
        trust_remote_code=base.trust_remote_code,
    )


def _check(session: Session, tenant: str, shard: Shard, target: Target) -> None:
    """Refuse activations that the adapter's base model could not have made at its cut."""
    if shard.task != "inference":
        raise RefusedError("dataset_mismatch", f"task is {shard.task!r}, not 'inference'")
    bundle = require_bundle(shard, find_bundle(session, tenant, shard.bundle))
    if (bundle.base_model_id, bundle.cut) != (target.base_model_id, target.cut):
        raise RefusedError(
            "dataset_mismatch",
            f"{target.name} continues another base model or cut than the shard's bundle",
            param="bundle",
        )
    check_bundle(shard, bundle)


async def _ask_worker(services: Services, target: Target, body: bytes) -> dict[str, Any]:
    query = {
        "adapter": str(file_store(services.config).path(target.digest)),
        "base": target.base_path,
        "trust_remote_code": "1" if target.trust_remote_code else "0",
    }
    try:
        answer = await services.inference.post(
            "/classifications", params=query, content=body, timeout=TIMEOUT
        )
    except httpx.TransportError as error:
        raise RefusedError("unavailable", "the worker does not answer yet; try again") from error
    if "json" not in answer.headers.get("content-type", ""):  # a fault outside the worker's code
        raise RefusedError(
            "internal_error", f"the worker answered {answer.status_code}, see its log"
        )
    found: dict[str, Any] = answer.json()
    if answer.is_error:
        code = found["error"]["code"]
        message = found["error"]["message"]
        raise RefusedError(code if code in CODES else "internal_error", message)
    return found


def _check_size(shard: Shard, target: Target) -> None:
    """Refuse what would be answered with megabytes of numbers."""
    if (scores := shard.examples * target.labels) > MAX_SCORES:
        raise RefusedError(
            "too_large",
            f"{shard.examples} examples of {target.labels} labels are {scores} scores, more than "
            f"{MAX_SCORES} in one answer; send at most {max(1, MAX_SCORES // target.labels)} "
            "examples",
        )


def _entry(labels: list[str], probabilities: list[float]) -> dict[str, Any]:
    best = max(range(len(labels)), key=probabilities.__getitem__)
    return {
        "label": labels[best],
        "index": best,
        "scores": dict(zip(labels, probabilities, strict=True)),
    }
