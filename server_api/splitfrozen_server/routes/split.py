"""Split classification: the device ran the lower blocks, the server runs the rest."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen.wire import Shard
from splitfrozen_server.admission import check_bundle, require_bundle
from splitfrozen_server.answering import Adapter, AnsweringModel, check_origin, find_answering
from splitfrozen_server.auth import AdminOrDevice
from splitfrozen_server.jobs.results import file_store
from splitfrozen_server.routes.shapes import SHARD_BODY
from splitfrozen_server.services import Services, Use
from splitfrozen_server.shards import find_bundle
from splitfrozen_server.uploads import receive_shard
from splitfrozen_server.worker_calls import WorkerAwayError, ask_worker, away

router = APIRouter(prefix="/v1/split", tags=["split inference"])

MAX_SCORES = 200_000  # examples x labels of one answer


@router.post("/classifications", openapi_extra=SHARD_BODY)
async def classify(
    request: Request,
    identity: AdminOrDevice,
    services: Use,
    model: Annotated[str, Query(description="ft:… name of a classification adapter")],
) -> dict[str, Any]:
    """Label probabilities of every example of a shard of task `inference`."""
    target = await services.database.read(lambda s: find_answering(s, identity.tenant_id, model))
    adapter = _classifier(target)
    slots = services.inference_slots
    async with receive_shard(request, services, slots, expected=None) as (body, shard):
        await services.database.read(lambda s: _check(s, identity.tenant_id, shard, target))
        _check_size(shard, adapter)
        answer = await _ask(services, target, adapter, body)
    return {
        "object": "split.classifications",
        "model": target.name,
        "data": [_entry(answer["labels"], row) for row in answer["probabilities"]],
    }


def _classifier(target: AnsweringModel) -> Adapter:
    if target.adapter is None:
        raise RefusedError(
            "model_not_ready",
            f"{target.name!r} is a base model and has no labels; name an adapter (ft:…)",
            param="model",
        )
    if target.adapter.task != "classification":
        raise RefusedError(
            "model_not_ready", f"{target.name} generates text, it does not classify", param="model"
        )
    return target.adapter


def _check(session: Session, tenant: str, shard: Shard, target: AnsweringModel) -> None:
    """Refuse activations that the adapter's base model could not have made at its cut."""
    if shard.task != "inference":
        raise RefusedError("dataset_mismatch", f"task is {shard.task!r}, not 'inference'")
    bundle = require_bundle(shard.bundle, find_bundle(session, tenant, shard.bundle))
    check_origin(target, bundle)
    check_bundle(shard, bundle)


async def _ask(
    services: Services, target: AnsweringModel, adapter: Adapter, body: bytes
) -> dict[str, Any]:
    query = {
        "adapter": str(file_store(services.config).path(adapter.digest)),
        "base": target.base_path,
        "trust_remote_code": "1" if target.trust_remote_code else "0",
    }
    try:
        return await ask_worker(services, "POST", "/classifications", params=query, content=body)
    except WorkerAwayError:
        raise away() from None


def _check_size(shard: Shard, adapter: Adapter) -> None:
    """Refuse what would be answered with megabytes of numbers."""
    if (scores := shard.examples * adapter.labels) > MAX_SCORES:
        raise RefusedError(
            "too_large",
            f"{shard.examples} examples of {adapter.labels} labels are {scores} scores, more than "
            f"{MAX_SCORES} in one answer; send at most {max(1, MAX_SCORES // adapter.labels)} "
            "examples",
        )


def _entry(labels: list[str], probabilities: list[float]) -> dict[str, Any]:
    best = max(range(len(labels)), key=probabilities.__getitem__)
    return {
        "label": labels[best],
        "index": best,
        "scores": dict(zip(labels, probabilities, strict=True)),
    }
