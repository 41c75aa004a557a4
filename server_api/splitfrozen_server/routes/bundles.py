"""Bundles: publish a directory of the server or upload one, list, download."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen.manifest import MANIFEST_NAME
from splitfrozen.signature import SIGNATURE_NAME
from splitfrozen_server.auth import Admin, AdminOrDevice
from splitfrozen_server.base_models import find_base_model
from splitfrozen_server.bundle_uploads import (
    begin_upload,
    drop_upload,
    finish_upload,
    receive_file,
)
from splitfrozen_server.database.tables import BaseModelRow, BundleRow
from splitfrozen_server.publishing import list_bundles, publish_bundle
from splitfrozen_server.routes.shapes import Count, Deleted, Input, Page
from splitfrozen_server.services import Use

router = APIRouter(prefix="/v1/bundles", tags=["bundles"])

Digest = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{64}$")]  # SHA-256 of the manifest

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file's bytes as they are (SPEC 4.7).",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


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


class BundleUpload(BaseModel):
    """How far the upload of a bundle is."""

    id: str
    object: Literal["bundle_upload"] = "bundle_upload"
    published: bool
    missing: list[str]  # names of files that have not arrived


@router.post("", status_code=201)
async def add_bundle(
    new: NewBundle, caller: Admin, services: Use, response: Response
) -> PublishedBundle:
    """Verify and copy a bundle; the same one again answers 200."""
    row, is_new = await publish_bundle(services, caller.tenant_id, Path(new.path).expanduser())
    response.status_code = 201 if is_new else 200
    return await _shape(services, row)


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
) -> Response:
    """One file of a bundle, splitfrozen.json and splitfrozen.sig too; byte ranges resume it."""
    row, _ = await _find(services, caller.tenant_id, bundle_id)
    if name == SIGNATURE_NAME:
        signature = await asyncio.to_thread(services.signer.sign, row.manifest.encode())
        return Response(signature, media_type="application/octet-stream")
    files = json.loads(row.manifest)["files"]
    if name != MANIFEST_NAME and name not in files:
        raise RefusedError("not_found", f"the bundle has no file {name[:80]!r}", param="name")
    digest = row.id if name == MANIFEST_NAME else files[name]["sha256"]
    return FileResponse(
        services.config.bundle_dir / row.id / name,
        media_type="application/octet-stream",
        headers={"ETag": f'"{digest}"', "Cache-Control": "private, max-age=31536000, immutable"},
    )


@router.put("/{bundle_id}/files/{name}", status_code=201, openapi_extra=_BODY)
async def put_bundle_file(
    bundle_id: Digest, name: str, request: Request, caller: Admin, services: Use, response: Response
) -> BundleUpload:
    """Upload one file: splitfrozen.json first, then what is missing. 200: it was there already."""
    tenant = caller.tenant_id
    if name == MANIFEST_NAME:
        staged, is_new = await begin_upload(services, tenant, bundle_id, request)
    else:
        staged, is_new = await receive_file(services, tenant, bundle_id, name, request)
    response.status_code = 201 if is_new else 200
    if staged is None:
        return BundleUpload(id=bundle_id, published=True, missing=[])
    return BundleUpload(id=bundle_id, published=False, missing=staged.missing())


@router.post("/{bundle_id}/publish", status_code=201)
async def publish_uploaded(
    bundle_id: Digest, caller: Admin, services: Use, response: Response
) -> PublishedBundle:
    """Publish an upload of which nothing is missing. 200: the bundle is published already."""
    row, is_new = await finish_upload(services, caller.tenant_id, bundle_id)
    response.status_code = 201 if is_new else 200
    return await _shape(services, row)


@router.delete("/{bundle_id}/upload")
async def delete_upload(bundle_id: Digest, caller: Admin, services: Use) -> Deleted:
    """Give up an upload that is not published yet."""
    await drop_upload(services, caller.tenant_id, bundle_id)
    return Deleted(id=bundle_id, object="bundle_upload")


async def _find(services: Use, tenant: str, bundle_id: str) -> tuple[BundleRow, str]:
    def work(session: Session) -> tuple[BundleRow, str]:
        row = session.get(BundleRow, (tenant, bundle_id))
        if row is None:
            raise RefusedError("not_found", f"there is no bundle {bundle_id[:80]!r}")
        return row, session.get_one(BaseModelRow, row.base_model_id).name

    return await services.database.read(work)


async def _shape(services: Use, row: BundleRow) -> PublishedBundle:
    name = await services.database.read(
        lambda session: session.get_one(BaseModelRow, row.base_model_id).name
    )
    return PublishedBundle(**_fields(row, name))


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
