"""A job's events as server-sent events: resumable by Last-Event-ID, ended by the job's end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial

from fastapi import Response
from sqlalchemy import select
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse, ServerSentEvent

from splitfrozen_server.database.engine import Database
from splitfrozen_server.database.job_tables import JobEventRow, JobRow
from splitfrozen_server.jobs.events import event_record, list_events
from splitfrozen_server.jobs.state import ENDED

POLL = 0.25  # seconds between two looks for new events
PAGE = 500  # events read at once
PING = 15  # seconds between two signs of life on a quiet stream


async def stream_events(database: Database, job_id: str, after: int) -> Response:
    """Stream what comes after event number `after`.

    A reader that saw everything of an ended job gets 204, which tells browsers to stop asking.
    """
    rows, ended = await database.read(partial(_look, job_id=job_id, after=after))
    if ended and not rows:
        return Response(status_code=204)
    return EventSourceResponse(_events(database, job_id, after), ping=PING)


async def _events(database: Database, job_id: str, after: int) -> AsyncIterator[ServerSentEvent]:
    while True:
        rows, ended = await database.read(partial(_look, job_id=job_id, after=after))
        for row in rows:
            record = event_record(row)
            yield ServerSentEvent(
                id=record["id"], event=row.type, data=json.dumps(record, ensure_ascii=False)
            )
            after = row.id
        if ended and not rows:
            return
        if not rows:
            await asyncio.sleep(POLL)


def _look(session: Session, *, job_id: str, after: int) -> tuple[list[JobEventRow], bool]:
    """New events, and whether the job had ended before they were read."""
    status = session.scalar(select(JobRow.status).where(JobRow.id == job_id))
    return list_events(session, job_id, after=after, limit=PAGE), status in (None, *ENDED)
