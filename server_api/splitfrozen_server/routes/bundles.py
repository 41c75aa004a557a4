"""Bundles: publish a directory of the server, list, download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen.manifest import MANIFEST_NAME
from splitfrozen_server.auth import Admin, AdminOrDevice
from splitfrozen_server.base_models import find_base_model
from splitfrozen_server.database.tables import BaseModelRow, BundleRow
from splitfrozen_server.publishing import list_bundles, publish_bundle
from splitfrozen_server.routes.shapes import Count, Input, Page
from splitfrozen_server.services import Use

router = APIRouter(prefix="/v1/bundles", tags=["bundles"])


class NewBundle(Input):
    """A bundle to publish."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]  # a directory of the server


class PublishedBundle(BaseModel):
    """A published bundle."""

    id: str
    object: Literal["bundle"] = "bundle"
    base_model: str  # name
    cut: int
    precision: str
    wire: str
    prefix_digest: str
    size: int  # bytes of all files
    created_at: int


class BundleWithManifest(PublishedBundle):
    """A published bundle with what its manifest says."""

    manifest: dict[str, Any]


@router.post("", status_code=201)
async def add_bundle(
    new: NewBundle, caller: Admin, services: Use, response: Response
) -> PublishedBundle:
    """Verify and copy a bundle; the same one again answers 200."""
    row, is_new = await publish_bundle(services, caller.tenant_id, Path(new.path).expanduser())
    response.status_code = 201 if is_new else 200
    name = await services.database.read(
        lambda session: session.get_one(BaseModelRow, row.base_model_id).name
    )
    return PublishedBundle(**_fields(row, name))


@router.get("")
async def get_bundles(
    caller: AdminOrDevice, services: Use, base_model: str | None = None, cut: Count | None = None
) -> Page[PublishedBundle]:
    """Published bundles, oldest first; of one base model (name or id), of one cut."""

    def work(session: Session) -> list[tuple[BundleRow, str]]:
        tenant = caller.tenant_id
        model = base_model and find_base_model(session, tenant, base_model).id
        return list_bundles(session, tenant, base_model_id=model, cut=cut)

    found = await services.database.read(work)
    return Page(data=[PublishedBundle(**_fields(row, name)) for row, name in found])


@router.get("/{bundle_id}")
async def get_bundle(bundle_id: str, caller: AdminOrDevice, services: Use) -> BundleWithManifest:
    """One bundle with its manifest."""
    row, name = await _find(services, caller.tenant_id, bundle_id)
    return BundleWithManifest(**_fields(row, name), manifest=json.loads(row.manifest))


@router.get("/{bundle_id}/files/{name}", response_class=FileResponse)
async def get_bundle_file(
    bundle_id: str, name: str, caller: AdminOrDevice, services: Use
) -> FileResponse:
    """One file of a bundle, splitfrozen.json too; byte ranges resume a download."""
    row, _ = await _find(services, caller.tenant_id, bundle_id)
    files = json.loads(row.manifest)["files"]
    if name != MANIFEST_NAME and name not in files:
        raise RefusedError("not_found", f"the bundle has no file {name[:80]!r}", param="name")
    digest = row.id if name == MANIFEST_NAME else files[name]["sha256"]
    return FileResponse(
        services.config.bundle_dir / row.id / name,
        media_type="application/octet-stream",
        headers={"ETag": f'"{digest}"', "Cache-Control": "private, max-age=31536000, immutable"},
    )


async def _find(services: Use, tenant: str, bundle_id: str) -> tuple[BundleRow, str]:
    def work(session: Session) -> tuple[BundleRow, str]:
        row = session.get(BundleRow, (tenant, bundle_id))
        if row is None:
            raise RefusedError("not_found", f"there is no bundle {bundle_id[:80]!r}")
        return row, session.get_one(BaseModelRow, row.base_model_id).name

    return await services.database.read(work)


def _fields(row: BundleRow, base_model: str) -> dict[str, Any]:
    return {
        "id": row.id,
        "base_model": base_model,
        "cut": row.cut,
        "precision": row.precision,
        "wire": row.wire,
        "prefix_digest": row.prefix_digest,
        "size": row.size,
        "created_at": row.created_at,
    }
