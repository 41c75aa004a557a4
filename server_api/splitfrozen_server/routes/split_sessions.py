"""Split sessions: a device sends activations of tokens, the server says which token follows.

The worker holds the sessions. Nothing about them is kept here: any API process may serve any step.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.admission import Published, require_bundle
from splitfrozen_server.answering import (
    AnsweringModel,
    check_origin,
    find_answering,
    find_positions,
)
from splitfrozen_server.auth import AdminOrDevice, Identity
from splitfrozen_server.identifiers import now
from splitfrozen_server.jobs.results import file_store
from splitfrozen_server.routes.shapes import MAX_INTEGER, SHARD_BODY, Deleted, Input
from splitfrozen_server.services import Services, Use
from splitfrozen_server.shards import find_bundle
from splitfrozen_server.uploads import receive_shard
from splitfrozen_server.worker_calls import WorkerAwayError, ask_worker, away

router = APIRouter(prefix="/v1/split/sessions", tags=["split inference"])

MAX_STEP = 512  # tokens of one step; a longer prompt comes in several
SessionId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_]{1,64}$")]


class NewSession(Input):
    """A session to open."""

    model: Annotated[str, Field(max_length=255, description="A base model, or ft:… of causal_lm")]
    bundle: Annotated[
        str, Field(pattern=r"^[0-9a-f]{64}$", description="Id of the device's bundle")
    ]
    temperature: Annotated[float, Field(ge=0, le=2, description="0: the most likely token")] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=MAX_INTEGER)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20, description="Likeliest tokens to tell")] = 0


class SplitSession(BaseModel):
    """An open session."""

    id: str
    object: Literal["split.session"] = "split.session"
    model: str = Field(description="Full name")
    seed: int = Field(description="Given or drawn; a new session with it goes on alike")
    max_positions: int = Field(description="Tokens that the session has room for")
    max_step_tokens: int = Field(MAX_STEP, description="Tokens of one step")
    eos_token_ids: list[int] = Field(description="Ids that end a text")
    idle_timeout: float = Field(description="Seconds without a step after which it is gone")
    created_at: int


class LikelyToken(BaseModel):
    """One of the likeliest tokens."""

    token: int
    logprob: float


class SplitStep(BaseModel):
    """The token that follows a step's tokens."""

    object: Literal["split.step"] = "split.step"
    session: str
    sequence: int
    token: int
    logprob: float = Field(description="Of the model itself: before temperature and top_p")
    top_logprobs: list[LikelyToken] = Field(description="Likeliest first; as many as asked for")
    position: int = Field(description="Tokens that the session has seen, without this one")
    finish_reason: Literal["stop", "length"] | None = Field(
        description="stop: the token ends the text; length: no room for another"
    )


@router.post("", status_code=201, response_model=SplitSession)
async def open_session(body: NewSession, identity: AdminOrDevice, services: Use) -> SplitSession:
    """Open a session; its model is loaded if need be."""

    def work(session: Session) -> tuple[AnsweringModel, Published, int]:
        tenant = identity.tenant_id
        model = find_answering(session, tenant, body.model)
        _check_generates(model)
        bundle = require_bundle(body.bundle, find_bundle(session, tenant, body.bundle))
        check_origin(model, bundle)
        return model, bundle, find_positions(session, tenant, body.bundle)

    model, bundle, positions = await services.database.read(work)
    seed = secrets.randbelow(MAX_INTEGER) if body.seed is None else body.seed
    sampling = {"temperature": body.temperature, "top_p": body.top_p, "logprobs": body.logprobs}
    opening = {
        "owner": _owner(identity),
        "ref": _model_ref(services, model, bundle.cut),
        "bundle": body.bundle,
        "published": asdict(replace(bundle, max_length=MAX_STEP)),
        "max_positions": positions,
        "sampling": {**sampling, "seed": seed},
    }
    try:
        opened = await ask_worker(services, "POST", "/sessions", json=opening)
    except WorkerAwayError:
        raise away() from None
    return SplitSession(model=model.name, seed=seed, created_at=now(), **opened)


@router.post("/{session}/steps", response_model=SplitStep, openapi_extra=SHARD_BODY)
async def step(
    session: SessionId,
    request: Request,
    identity: AdminOrDevice,
    services: Use,
    sequence: Annotated[int, Query(ge=1, le=MAX_INTEGER, description="1, 2, … per session")],
) -> SplitStep:
    """Append the tokens of a shard of task `inference` to a session; answers the next token.

    The same step with the same body again is answered again, and computed once.
    """
    slots = services.step_slots
    async with receive_shard(request, services, slots, expected=None) as (body, _):
        query = {"owner": _owner(identity), "sequence": sequence}
        path = f"/sessions/{session}/steps"
        try:
            found = await ask_worker(services, "POST", path, params=query, content=body)
        except WorkerAwayError:  # and with it all its sessions
            raise RefusedError(
                "session_lost", "the worker was restarted: open another session"
            ) from None
    return SplitStep(session=session, sequence=sequence, **found)


@router.delete("/{session}")
async def close_session(session: SessionId, identity: AdminOrDevice, services: Use) -> Deleted:
    """Free a session's memory."""
    query = {"owner": _owner(identity)}
    try:
        await ask_worker(services, "DELETE", f"/sessions/{session}", params=query)
    except WorkerAwayError:
        raise RefusedError("not_found", "there is no such session", param="session") from None
    return Deleted(id=session, object="split.session")


def _check_generates(model: AnsweringModel) -> None:
    if model.adapter is not None and model.adapter.task != "causal_lm":
        raise RefusedError(
            "model_not_ready", f"{model.name} classifies, it does not generate text", param="model"
        )


def _model_ref(services: Services, model: AnsweringModel, cut: int) -> dict[str, Any]:
    store = file_store(services.config)
    base = {"path": model.base_path, "cut": cut, "trust_remote_code": model.trust_remote_code}
    adapter = None if model.adapter is None else str(store.path(model.adapter.digest))
    return {"base": base, "adapter": adapter}


def _owner(identity: Identity) -> str:
    """Whose sessions these are: a device's, or those of the tenant's admins."""
    return f"{identity.tenant_id}/{identity.device_id or ''}"
