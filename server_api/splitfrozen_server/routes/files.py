"""Result files of jobs: adapters and metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.auth import Admin, Identity
from splitfrozen_server.database.job_tables import FileRow
from splitfrozen_server.jobs.records import file_record
from splitfrozen_server.jobs.results import file_store, media_type
from splitfrozen_server.services import Services, Use

router = APIRouter(prefix="/v1/files", tags=["files"])


@router.get("")
async def list_files(identity: Admin, services: Use, purpose: str | None = None) -> dict[str, Any]:
    """Result files, newest first."""

    def work(session: Session) -> list[dict[str, Any]]:
        query = select(FileRow).where(FileRow.tenant_id == identity.tenant_id)
        if purpose is not None:
            query = query.where(FileRow.purpose == purpose)
        rows = session.scalars(query.order_by(FileRow.created_at.desc(), FileRow.id))
        return [file_record(row) for row in rows]

    return {"object": "list", "data": await services.database.read(work), "has_more": False}


@router.get("/{file_id}")
async def get_file(file_id: str, identity: Admin, services: Use) -> dict[str, Any]:
    """One file's size, purpose and hash."""
    return file_record(await _find(services, identity, file_id))


@router.get("/{file_id}/content")
async def get_content(file_id: str, identity: Admin, services: Use) -> FileResponse:
    """The file itself; ranges are served, so a download can be resumed."""
    row = await _find(services, identity, file_id)
    return FileResponse(
        file_store(services.config).path(row.sha256),
        media_type=media_type(row.purpose),
        filename=row.filename,
        headers={"ETag": f'"{row.sha256}"'},
    )


async def _find(services: Services, identity: Identity, file_id: str) -> FileRow:
    row = await services.database.read(lambda session: session.get(FileRow, file_id))
    if row is None or row.tenant_id != identity.tenant_id:
        raise RefusedError("not_found", f"there is no file {file_id[:80]!r}")
    return row
