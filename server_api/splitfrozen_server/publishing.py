"""Publishing a bundle: copy, verify the copy, prove that its frozen half is a known model's.

Nothing of a refused bundle stays behind; a published one is complete or absent.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen.bundle import Bundle, check_manifest, verify_file
from splitfrozen.errors import ManifestError, RefusedError
from splitfrozen.manifest import MANIFEST_NAME, Manifest, bundle_id, parse_manifest
from splitfrozen_server.base_models import list_base_models
from splitfrozen_server.blobs import NO_SPACE, PART, flush_directory
from splitfrozen_server.database.tables import BaseModelRow, BundleRow
from splitfrozen_server.identifiers import now
from splitfrozen_server.services import Services

MAX_MANIFEST = 16 << 20  # bytes

Fill = Callable[[Path, Manifest], None]


async def publish_bundle(
    services: Services, tenant: str, directory: Path
) -> tuple[BundleRow, bool]:
    """Copy a verified bundle into the data directory; False with the old row if it is there.

    Raises ManifestError for a broken bundle, RefusedError `base_model_mismatch` if no registered
    base model has its weights, `insufficient_storage`.
    """
    raw = await asyncio.to_thread(_read_manifest, directory)
    return await publish_files(
        services, tenant, raw, lambda part, manifest: _copy(directory, part, raw, manifest)
    )


async def publish_files(
    services: Services, tenant: str, raw: bytes, fill: Fill
) -> tuple[BundleRow, bool]:
    """Publish the bundle of a manifest; False with the old row if it is there.

    `fill` puts the manifest and every file, verified, into a new directory; it runs in a thread.
    """
    key = (tenant, bundle_id(raw))
    async with services.digest_locks.hold(key[1]):
        known = await services.database.read(lambda session: session.get(BundleRow, key))
        if known is not None:
            return known, False
        manifest = parse_manifest(raw)
        target = services.config.bundle_dir / key[1]
        part = target.with_name(f"{target.name}.{secrets.token_hex(4)}{PART}")
        try:
            await asyncio.to_thread(_fill, fill, part, manifest)
            base_model = await find_base(services, tenant, manifest)
            if not (
                target.exists() and await services.database.read(lambda s: _is_named(s, key[1]))
            ):
                await asyncio.to_thread(_put_in_place, part, target)
        finally:
            await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
        row = _row(tenant, base_model, Bundle(target, manifest, key[1]), raw)
        return await services.database.write(lambda session: _insert(session, row)), True


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Compare every file with its entry. ManifestError has the file's name as `param`, no path."""
    for name, entry in manifest.files.items():
        try:
            verify_file(directory / name, entry)
        except ManifestError as error:
            message = error.message.replace(str(directory / name), name)
            raise ManifestError(error.code, message, param=name) from None


async def find_base(services: Services, tenant: str, manifest: Manifest) -> BaseModelRow:
    """The registered base model whose weights below the cut are those of the bundle."""
    models = await services.database.read(lambda session: list_base_models(session, tenant))
    shape = (manifest.family, manifest.num_layers, manifest.hidden_size)
    tried = []
    for model in models:
        if (model.family, model.num_layers, model.hidden_size) != shape:
            continue
        digest = await services.prefix_digests.of(
            model.path, manifest.cut, trust_remote_code=model.trust_remote_code
        )
        if digest == manifest.prefix_digest:
            return model
        tried.append(f"{model.name} has {digest[:12]}…")
    found = "; ".join(tried) or f"no registered model is a {manifest.family} of this shape"
    raise RefusedError(
        "base_model_mismatch",
        f"the bundle was made from {manifest.base_model.id} with prefix digest "
        f"{manifest.prefix_digest[:12]}… at cut {manifest.cut}, but {found}: "
        "`splitfrozen-server models add` the model that it was made from",
        param="path",
        details={"bundle": manifest.prefix_digest},
    )


def list_bundles(
    session: Session, tenant: str, *, base_model_id: str | None, cut: int | None
) -> list[tuple[BundleRow, str]]:
    """Bundles with their base model's name, oldest first."""
    query = (
        select(BundleRow, BaseModelRow.name)
        .join(BaseModelRow, BaseModelRow.id == BundleRow.base_model_id)
        .where(BundleRow.tenant_id == tenant)
        .order_by(BundleRow.created_at, BundleRow.id)
    )
    if base_model_id is not None:
        query = query.where(BundleRow.base_model_id == base_model_id)
    if cut is not None:
        query = query.where(BundleRow.cut == cut)
    return [(row, name) for row, name in session.execute(query)]


def _read_manifest(directory: Path) -> bytes:
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise ManifestError(
            "missing_file",
            f"{directory} on the server is no bundle: it has no {MANIFEST_NAME}",
            param="path",
        )
    if path.stat().st_size > MAX_MANIFEST:
        raise ManifestError("bad_manifest", f"{path} exceeds {MAX_MANIFEST} bytes")
    raw = path.read_bytes()
    check_manifest(directory, raw)
    return raw


def _fill(fill: Fill, part: Path, manifest: Manifest) -> None:
    try:
        fill(part, manifest)
        _flush(part)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise RefusedError("insufficient_storage", "the server's disk is full") from error
        raise


def _copy(source: Path, part: Path, raw: bytes, manifest: Manifest) -> None:
    """Copy and verify the copy: the source may change meanwhile."""
    part.mkdir(parents=True)
    (part / MANIFEST_NAME).write_bytes(raw)
    for name in manifest.files:
        _copy_file(source / name, part / name)
    verify_files(part, manifest)


def _put_in_place(part: Path, target: Path) -> None:
    if target.exists():  # a crash came between an earlier copy and its row
        shutil.rmtree(target)
    part.rename(target)
    flush_directory(target.parent)


def _copy_file(source: Path, target: Path) -> None:
    if source.is_symlink() or not source.is_file():
        raise ManifestError("missing_file", f"{source} is missing or not a plain file")
    shutil.copyfile(source, target)


def _flush(directory: Path) -> None:
    for path in directory.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    flush_directory(directory)


def _row(tenant: str, base_model: BaseModelRow, bundle: Bundle, raw: bytes) -> BundleRow:
    manifest = bundle.manifest
    return BundleRow(
        tenant_id=tenant,
        id=bundle.id,
        base_model_id=base_model.id,
        cut=manifest.cut,
        precision=manifest.precision,
        wire=manifest.wire,
        prefix_digest=manifest.prefix_digest,
        hidden_size=manifest.hidden_size,
        vocab_size=manifest.vocab_size,
        max_length=manifest.preprocess.max_length,
        manifest=raw.decode(),
        size=len(raw) + sum(entry.size for entry in manifest.files.values()),
        created_at=now(),
    )


def _is_named(session: Session, bundle: str) -> bool:
    """Whether a tenant has published the bundle: its directory serves all who have."""
    return session.scalar(select(BundleRow.id).where(BundleRow.id == bundle).limit(1)) is not None


def _insert(session: Session, row: BundleRow) -> BundleRow:
    session.add(row)
    session.flush()
    return row
