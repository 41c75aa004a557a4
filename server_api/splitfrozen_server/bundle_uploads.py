"""Publishing over HTTP: the manifest, the files, the end (SPEC 4.7).

Everything that can be refused is refused at the manifest, before hundreds of megabytes travel.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import Request

from splitfrozen.errors import ManifestError, RefusedError
from splitfrozen.manifest import MANIFEST_NAME, FileEntry, Manifest, bundle_id, parse_manifest
from splitfrozen_server.database.tables import BundleRow
from splitfrozen_server.incoming import Incoming, Staged
from splitfrozen_server.publishing import MAX_MANIFEST, find_base, publish_files, verify_files
from splitfrozen_server.services import Services

_PIECE = 1 << 20  # bytes that go to the disk at once


async def begin_upload(
    services: Services, tenant: str, bundle: str, request: Request
) -> tuple[Staged | None, bool]:
    """Take the manifest of a bundle; the upload, and whether it is a new one.

    None instead of the upload if the bundle is published. Raises ManifestError for a manifest that
    no device would open, RefusedError `digest_mismatch`, `base_model_mismatch`, `too_large`,
    `rate_limited`, `insufficient_storage`.
    """
    raw = await _read_manifest(request, services.config.body_timeout)
    if bundle_id(raw) != bundle:
        raise RefusedError(
            "digest_mismatch", f"the manifest hashes to {bundle_id(raw)}, not to the bundle's id"
        )
    manifest = parse_manifest(raw)
    incoming = Incoming(services.config.incoming_dir)
    async with services.digest_locks.hold(bundle):
        if await _published(services, tenant, bundle) is not None:
            return None, False
        found = await asyncio.to_thread(incoming.find, tenant, bundle)
        if found is not None:
            return found, False
        _check_size(manifest, services.config.max_bundle)
        await find_base(services, tenant, manifest)
        async with services.upload_begins:  # else two could both be the last that fits
            await asyncio.to_thread(_check_room, services, incoming, manifest)
            return await asyncio.to_thread(incoming.begin, tenant, bundle, raw, manifest), True


async def receive_file(
    services: Services, tenant: str, bundle: str, name: str, request: Request
) -> tuple[Staged | None, bool]:
    """Take one file; the upload (None: the bundle is published), and whether the file is new.

    Raises RefusedError `not_found` before the manifest came or for a name that it lacks,
    `hash_mismatch`, `insufficient_storage`, `unavailable` when the body stops arriving.
    """
    incoming = Incoming(services.config.incoming_dir)
    staged = await asyncio.to_thread(incoming.find, tenant, bundle)
    manifest = staged.manifest if staged else await _manifest_of(services, tenant, bundle)
    entry = manifest.files.get(name)
    if entry is None:
        raise RefusedError("not_found", f"the bundle has no file {name[:80]!r}", param="name")
    _check_declared(request, entry)
    if staged is None:
        async for _ in _pieces(request, services.config.body_timeout, limit=entry.size):
            continue  # there already; a client may hear so only when it has sent all
        return None, False
    target = staged.directory / name
    is_new = not target.exists()
    room = services.disk_room.promise(entry.size if is_new else 0)
    with room as wrote, incoming.receive(entry) if is_new else incoming.compare(entry) as body:
        async for piece in _pieces(request, services.config.body_timeout, limit=entry.size):
            await asyncio.to_thread(body.write, piece)
            wrote(len(piece))
        await asyncio.to_thread(body.keep, target)
    return staged, is_new


async def finish_upload(services: Services, tenant: str, bundle: str) -> tuple[BundleRow, bool]:
    """Publish what has arrived; False with the row if it is published already.

    The upload stays as it is until the row is durable: whatever fails or kills this, no file has to
    be sent again, but one that the disk spoiled. Raises RefusedError `missing_file` naming what has
    not arrived; else as `publish_bundle`.
    """
    if (row := await _published(services, tenant, bundle)) is not None:
        return row, False
    incoming = Incoming(services.config.incoming_dir)
    staged = await asyncio.to_thread(incoming.find, tenant, bundle)
    if staged is None:
        row = await _published(services, tenant, bundle)  # by another request, just now
        if row is None:
            raise _unknown(bundle)
        return row, False
    if missing := await asyncio.to_thread(staged.missing):
        raise RefusedError(
            "missing_file", f"not uploaded yet: {', '.join(missing)}", details={"missing": missing}
        )
    raw = await asyncio.to_thread((staged.directory / MANIFEST_NAME).read_bytes)
    published = await publish_files(
        services, tenant, raw, lambda part, manifest: _take(staged.directory, part, manifest)
    )
    await asyncio.to_thread(incoming.drop, tenant, bundle)
    return published


async def drop_upload(services: Services, tenant: str, bundle: str) -> None:
    """Give an unfinished upload up. Raises RefusedError `not_found`."""
    async with services.digest_locks.hold(bundle):
        incoming = Incoming(services.config.incoming_dir)
        if not await asyncio.to_thread(incoming.drop, tenant, bundle):
            raise _unknown(bundle)


def _take(staged: Path, part: Path, manifest: Manifest) -> None:
    """Give the files of an upload a second name beside the published bundles, and check them.

    A file that is not what the manifest says is removed from the upload, so that it is sent again.
    """
    part.mkdir()
    try:
        for name in (MANIFEST_NAME, *manifest.files):
            _link(staged / name, part / name)
    except FileNotFoundError:
        raise _unknown(staged.name.rpartition(".")[2]) from None
    try:
        verify_files(part, manifest)
    except ManifestError as error:
        if error.param is not None:
            (staged / error.param).unlink(missing_ok=True)
        raise


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


async def _read_manifest(request: Request, timeout: float) -> bytes:
    raw = bytearray()
    async for piece in _pieces(request, timeout, limit=MAX_MANIFEST):
        raw += piece
    return bytes(raw)


async def _pieces(request: Request, timeout: float, *, limit: int) -> AsyncIterator[bytes]:
    """The body in pieces of about _PIECE bytes; each has `timeout` seconds to arrive."""
    gathered, total = bytearray(), 0
    stream = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(timeout):
                piece = await anext(stream)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise RefusedError(
                "unavailable", f"nothing of the body arrived for {timeout:g} s"
            ) from None
        total += len(piece)
        if total > limit:
            raise RefusedError("too_large", f"the body exceeds {limit} bytes")
        gathered += piece
        if len(gathered) >= _PIECE:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _check_declared(request: Request, entry: FileEntry) -> None:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RefusedError("bad_encoding", "files of a bundle travel as they are, uncompressed")
    declared = request.headers.get("content-length")
    if declared is not None and declared != str(entry.size):
        raise RefusedError("hash_mismatch", f"the body has {declared[:20]} bytes, not {entry.size}")


def _check_size(manifest: Manifest, limit: int) -> None:
    size = sum(entry.size for entry in manifest.files.values())
    if size > limit:
        raise RefusedError("too_large", f"the bundle has {size} bytes; at most {limit} are taken")


def _check_room(services: Services, incoming: Incoming, manifest: Manifest) -> None:
    """Refuse an upload that would not fit beside those that are under way."""
    incoming.drop_stale()
    others = list(incoming.all())
    if len(others) >= services.config.max_incoming:
        raise RefusedError(
            "rate_limited", f"{len(others)} bundles are being uploaded; wait, or give one up"
        )
    size = sum(entry.size for entry in manifest.files.values())
    services.disk_room.check(size + sum(other.outstanding() for other in others))


async def _published(services: Services, tenant: str, bundle: str) -> BundleRow | None:
    return await services.database.read(lambda session: session.get(BundleRow, (tenant, bundle)))


async def _manifest_of(services: Services, tenant: str, bundle: str) -> Manifest:
    row = await _published(services, tenant, bundle)
    if row is None:
        raise _unknown(bundle)
    return parse_manifest(row.manifest.encode())


def _unknown(bundle: str) -> RefusedError:
    return RefusedError(
        "not_found", f"no upload of the bundle {bundle[:80]} has begun: send its manifest first"
    )
