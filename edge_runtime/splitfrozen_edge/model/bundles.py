"""Which bundle to use, and how it comes onto the device. Every hash is checked before any use."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from splitfrozen.bundle import Bundle, read_bundle, verify_file
from splitfrozen.errors import ManifestError, RefusedError
from splitfrozen.manifest import MANIFEST_NAME, FileEntry, Manifest, bundle_id, parse_manifest
from splitfrozen.signature import MAX_SIGNATURE, SIGNATURE_NAME
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.http.refusals import TransientError
from splitfrozen_edge.outbox.store import Outbox
from splitfrozen_edge.state import StateDirectory, StateError, sync_directory

_ID = re.compile(r"[0-9a-f]{64}")
_KEPT = 3  # downloads, the last used ones, besides those that datasets need
_MAX_MANIFEST = 4 * 1024 * 1024  # bytes; a chat template is the largest field


class BundleStore:
    """Bundles of this device: directories that were used, and downloads by id."""

    def __init__(self, state: StateDirectory, outbox: Outbox, client: Client) -> None:
        self._state = state
        self._outbox = outbox
        self._client = client

    def open(self, wanted: str) -> Bundle:
        """A bundle by directory or id; downloaded if it is an id that is not here."""
        if Path(wanted).is_dir():
            return self._read(Path(wanted))
        if not _ID.fullmatch(wanted):
            raise StateError(f"--bundle {wanted}: neither a directory nor a bundle id of 64 digits")
        own = (self._state.bundles / wanted).resolve()
        for known, directory in self._outbox.bundles():
            elsewhere = known == wanted and directory != own
            if elsewhere and (directory / MANIFEST_NAME).is_file():
                return self._read(directory, wanted)
        return self._open_own(wanted, own)

    def _open_own(self, wanted: str, directory: Path) -> Bundle:
        """A bundle of the state directory, which is fetched again if it is damaged."""
        with _locked(directory):
            if directory.is_dir():
                try:
                    return self._read(directory, wanted)
                except ManifestError:
                    shutil.rmtree(directory)
            download(self._client, wanted, directory, key=self._pinned_key())
            found = self._read(directory, wanted)
        self._remove_old()
        return found

    def _remove_old(self) -> None:
        """Downloads that were replaced: each is some hundred megabytes of a memory card.

        What is opened keeps its bytes; what is needed after all is fetched again.
        """
        needed = {known for known, _ in self._outbox.bundles()[:_KEPT]}
        needed |= {item.bundle for item in self._outbox.datasets()}
        for path in self._state.bundles.iterdir():
            if _ID.fullmatch(path.name) and path.name not in needed:
                with _locked(path):
                    shutil.rmtree(path, ignore_errors=True)

    def _pinned_key(self) -> str | None:
        """The key that this device's server signs with, as it was at the enrolment."""
        return self._state.enrolment().bundle_key if self._state.is_enrolled() else None

    def find(self, base_model: str, cut: int) -> Bundle:
        """A published bundle for a base model and cut: one that is here, or the preferred one."""
        published = self._client.bundles(base_model, cut)
        if not published:
            raise StateError(f"the server has no bundle of {base_model} with cut {cut}")
        ids = {str(item["id"]) for item in published}
        here = [known for known, path in self._outbox.bundles() if known in ids and path.is_dir()]
        return self.open(here[0] if here else str(max(published, key=_preference)["id"]))

    def known(self) -> list[str]:
        """Ids of the bundles that are on this device, the last used first."""
        return [known for known, path in self._outbox.bundles() if path.is_dir()]

    def last_used(self) -> Bundle | None:
        """The bundle that this device used last, if it is still there."""
        for known, directory in self._outbox.bundles():
            if (directory / MANIFEST_NAME).is_file():
                return self._read(directory, known)
        return None

    def _read(self, directory: Path, wanted: str | None = None) -> Bundle:
        bundle = read_bundle(directory)
        if wanted is not None and bundle.id != wanted:
            raise ManifestError(
                "hash_mismatch", f"{directory} holds bundle {bundle.id[:12]}…, not {wanted[:12]}…"
            )
        self._outbox.remember_bundle(bundle.id, directory.resolve())
        return bundle


def _preference(item: dict[str, Any]) -> tuple[bool, float, str]:
    """int8 before the rest, then the newest."""
    return item.get("precision") == "int8", float(item.get("created_at") or 0), str(item["id"])


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a bundle's place; another process that wants to fetch it waits for this one."""
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with directory.with_name(f".{directory.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def download(client: Client, bundle: str, directory: Path, *, key: str | None = None) -> None:
    """Fetch a bundle into `directory`, continuing an earlier attempt; it appears when complete.

    `key`: Ed25519 public key (hex) that must have signed it. Raises ManifestError if what arrives
    does not have the declared hashes, or is not signed by that key.
    """
    part = directory.with_name(f".{bundle}.part")
    part.mkdir(mode=0o700, parents=True, exist_ok=True)
    manifest = _fetch_manifest(client, bundle, part / MANIFEST_NAME)
    if key is not None:
        _check_signature(client, bundle, part, key)
    for name, entry in manifest.files.items():
        _fetch_verified(client, bundle, part / name, entry)
    sync_directory(part)
    part.replace(directory)
    sync_directory(directory.parent)


def _fetch_manifest(client: Client, bundle: str, path: Path) -> Manifest:
    path.unlink(missing_ok=True)
    _fetch(client, bundle, path, _MAX_MANIFEST)
    raw = path.read_bytes()
    if bundle_id(raw) != bundle:
        path.unlink()
        raise ManifestError("hash_mismatch", f"the server's manifest is not that of {bundle}")
    return parse_manifest(raw)


def _check_signature(client: Client, bundle: str, part: Path, key: str) -> None:
    """Before megabytes are fetched: the manifest, which names all hashes, is the server's."""
    from splitfrozen_edge.identity.signature import check_bundle

    path = part / SIGNATURE_NAME
    path.unlink(missing_ok=True)
    try:
        _fetch(client, bundle, path, MAX_SIGNATURE)
    except RefusedError as error:
        if error.code != "not_found":
            raise
    try:
        raw = path.read_bytes() if path.exists() else None
        check_bundle(raw, (part / MANIFEST_NAME).read_bytes(), key)
    except ManifestError:
        shutil.rmtree(part)
        raise


def _fetch_verified(client: Client, bundle: str, path: Path, entry: FileEntry) -> None:
    """Continue from what is there; if the result is wrong, start over once."""
    resumed = path.exists()
    _fetch(client, bundle, path, entry.size)
    try:
        verify_file(path, entry)
    except ManifestError:
        path.unlink()
        if not resumed:
            raise
        _fetch(client, bundle, path, entry.size)
        verify_file(path, entry)


def _fetch(client: Client, bundle: str, path: Path, limit: int) -> None:
    """Append to `path` until the server has no more; more than `limit` bytes is an error."""

    best = _size(path)

    def attempt() -> None:
        nonlocal best
        offset = _size(path)
        if offset and offset == limit:
            return
        offset = 0 if offset > limit else offset
        try:
            with client.download(bundle, path.name, offset) as (start, chunks):
                _append(path, start, chunks, limit)
        except TransientError as error:
            # A server without ranges sends the same start again: that is no progress.
            error.progressed = _size(path) > best
            best = max(best, _size(path))
            raise

    client.retrying(attempt)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(path: Path, start: int, chunks: Iterator[bytes], limit: int) -> None:
    with path.open("r+b" if start else "wb") as stream:
        stream.seek(start)
        for chunk in chunks:
            if stream.tell() + len(chunk) > limit:
                message = f"{path.name} is longer than its declared {limit} bytes"
                raise ManifestError("hash_mismatch", message)
            stream.write(chunk)
        stream.flush()
        os.fsync(stream.fileno())
