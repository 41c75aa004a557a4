"""A job's events: stored once per key, read in order."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen_server.database.job_tables import JobEventRow, JobRow
from splitfrozen_server.identifiers import now

_PREFIX = "ftevent-"
DIVERGED = "another training loss"

log = logging.getLogger(__name__)


def add_event(
    session: Session, job: JobRow, key: str, message: str, *, level: str = "info", **data: Any
) -> None:
    """Store a message, unless the job has one under this key."""
    event = {"key": key, "type": "message", "level": level, "message": message, "data": data}
    add_events(session, job, [{**event, "created_at": now()}])


def add_events(session: Session, job: JobRow, events: Sequence[dict[str, Any]]) -> None:
    """Store events in their order; those whose key the job has already are repeats and dropped."""
    keys = [event["key"] for event in events]
    query = select(JobEventRow.key, JobEventRow.data)
    query = query.where(JobEventRow.job_id == job.id, JobEventRow.key.in_(keys))
    known = {key: data for key, data in session.execute(query)}
    for event in events:
        if event["key"] in known:
            _compare(job, event, known[event["key"]])
            continue
        known[event["key"]] = event["data"]
        fields = {**event, "created_at": int(event["created_at"])}
        session.add(JobEventRow(job_id=job.id, tenant_id=job.tenant_id, **fields))
    session.flush()


def _compare(job: JobRow, event: dict[str, Any], stored: dict[str, Any]) -> None:
    """A step made again must give the same bits; the owner of the server should know if not."""
    before, again = stored.get("train_loss"), event["data"].get("train_loss")
    if before != again:
        log.warning(
            "%s %s: made again with %s: %s, before %s",
            job.id,
            event["key"],
            DIVERGED,
            again,
            before,
        )


def list_events(
    session: Session, job_id: str, *, after: int = 0, limit: int = 100
) -> list[JobEventRow]:
    """Events with a number above `after`, oldest first."""
    query = select(JobEventRow).where(JobEventRow.job_id == job_id, JobEventRow.id > after)
    return list(session.scalars(query.order_by(JobEventRow.id).limit(limit)))


def metric_events(session: Session, job_id: str) -> Iterable[JobEventRow]:
    """All metrics of a job, oldest first."""
    query = select(JobEventRow).where(JobEventRow.job_id == job_id, JobEventRow.type == "metrics")
    return session.scalars(query.order_by(JobEventRow.id))


def event_record(row: JobEventRow) -> dict[str, Any]:
    """OpenAI's event object."""
    return {
        "id": f"{_PREFIX}{row.id}",
        "object": "fine_tuning.job.event",
        "created_at": row.created_at,
        "level": row.level,
        "message": row.message,
        "type": row.type,
        "data": row.data,
    }


def event_number(text: str) -> int | None:
    """The number of an event id (`ftevent-17` or `17`); None for anything else."""
    digits = text.removeprefix(_PREFIX)
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None
