"""Fine-tuning jobs in OpenAI's dialect, with pause, resume and a live stream of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.auth import Admin, Identity
from splitfrozen_server.database.job_tables import JobCheckpointRow, JobEventRow, JobRow
from splitfrozen_server.jobs import state
from splitfrozen_server.jobs.event_stream import stream_events
from splitfrozen_server.jobs.events import event_number, event_record
from splitfrozen_server.jobs.records import checkpoint_record, job_record
from splitfrozen_server.jobs.request import CreateJob
from splitfrozen_server.services import Services, Use

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])

Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post("")
async def create_job(body: CreateJob, identity: Admin, services: Use) -> dict[str, Any]:
    """Queue a job over an activation dataset."""

    def work(session: Session) -> dict[str, Any]:
        return job_record(session, state.create(session, identity.tenant_id, body))

    return await services.database.write(work)


@router.get("")
async def list_jobs(
    identity: Admin, services: Use, after: str | None = None, limit: Limit = 20
) -> dict[str, Any]:
    """Jobs, newest first; `after` is the last id of the page before."""

    def work(session: Session) -> list[dict[str, Any]]:
        query = select(JobRow).where(JobRow.tenant_id == identity.tenant_id)
        if after is not None:
            last = state.find_job(session, identity.tenant_id, after)
            query = query.where(JobRow.position < last.position)
        rows = session.scalars(query.order_by(JobRow.position.desc()).limit(limit + 1))
        return [job_record(session, row) for row in rows]

    return _page(await services.database.read(work), limit)


@router.get("/{job_id}")
async def get_job(job_id: str, identity: Admin, services: Use) -> dict[str, Any]:
    """One job."""
    return await services.database.read(
        lambda session: job_record(session, state.find_job(session, identity.tenant_id, job_id))
    )


@router.post("/{job_id}/cancel")
async def cancel_job(job_id: str, identity: Admin, services: Use) -> dict[str, Any]:
    """End a job for good; its worker stops after the step that it is making."""
    return await _change(services, identity, job_id, state.cancel)


@router.post("/{job_id}/pause")
async def pause_job(job_id: str, identity: Admin, services: Use) -> dict[str, Any]:
    """Stop a job for now; nothing is lost."""
    return await _change(services, identity, job_id, state.pause)


@router.post("/{job_id}/resume")
async def resume_job(job_id: str, identity: Admin, services: Use) -> dict[str, Any]:
    """Let a paused job go on from where it stopped."""
    return await _change(services, identity, job_id, state.resume)


@router.get("/{job_id}/events", response_model=None)
async def get_events(
    job_id: str,
    request: Request,
    identity: Admin,
    services: Use,
    after: str | None = None,
    limit: Limit = 20,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response | dict[str, Any]:
    """Events: as a list, newest first and `after` an id towards older ones, as OpenAI has it.

    With `Accept: text/event-stream` a live stream, oldest first, that begins after `Last-Event-ID`
    and ends with the job.
    """
    await services.database.read(
        lambda session: state.find_job(session, identity.tenant_id, job_id)
    )
    if "text/event-stream" in accept:
        start = _event_number(last_event_id, "Last-Event-ID") or 0
        return await stream_events(services.database, job_id, start)
    before = _event_number(after, "after")
    rows = await services.database.read(lambda s: _events_before(s, job_id, before, limit + 1))
    return _page([event_record(row) for row in rows], limit)


@router.get("/{job_id}/checkpoints")
async def get_checkpoints(
    job_id: str,
    identity: Admin,
    services: Use,
    after: str | None = None,
    limit: Limit = 10,
) -> dict[str, Any]:
    """Checkpoints, newest first."""

    def work(session: Session) -> list[dict[str, Any]]:
        job = state.find_job(session, identity.tenant_id, job_id)
        query = select(JobCheckpointRow).where(JobCheckpointRow.job_id == job_id)
        if after is not None:
            last = session.get(JobCheckpointRow, after)
            if last is None or last.job_id != job_id:
                raise RefusedError("not_found", f"there is no checkpoint {after[:80]!r}")
            query = query.where(JobCheckpointRow.step < last.step)
        rows = session.scalars(query.order_by(JobCheckpointRow.step.desc()).limit(limit + 1))
        return [checkpoint_record(row, job) for row in rows]

    return _page(await services.database.read(work), limit)


async def _change(
    services: Services,
    identity: Identity,
    job_id: str,
    change: Callable[[Session, JobRow], None],
) -> dict[str, Any]:
    def work(session: Session) -> dict[str, Any]:
        job = state.find_job(session, identity.tenant_id, job_id)
        change(session, job)
        session.flush()
        return job_record(session, job)

    return await services.database.write(work)


def _events_before(
    session: Session, job_id: str, before: int | None, limit: int
) -> list[JobEventRow]:
    query = select(JobEventRow).where(JobEventRow.job_id == job_id)
    if before is not None:
        query = query.where(JobEventRow.id < before)
    return list(session.scalars(query.order_by(JobEventRow.id.desc()).limit(limit)))


def _page(records: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """OpenAI's list: one record more than asked for says that there are more."""
    shown = records[:limit]
    return {
        "object": "list",
        "data": shown,
        "has_more": len(records) > limit,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }


def _event_number(text: str | None, param: str) -> int | None:
    if text is None or text == "":
        return None
    if (number := event_number(text)) is None:
        raise RefusedError("invalid_request", f"{text[:40]!r} is no event id", param=param)
    return number
