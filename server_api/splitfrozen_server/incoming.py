"""Bundles that are still being uploaded: complete, verified files, and nothing that anyone serves.

    incoming/{tenant}.{bundle id}/   the manifest and the files that have arrived
    incoming/*.part                  bodies that are being received

A file is hashed while it is written, flushed and only then renamed into its directory, so that
what is there never has to be sent again, not after a kill of either side either.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from splitfrozen.errors import RefusedError
from splitfrozen.manifest import MANIFEST_NAME, FileEntry, Manifest, bundle_id, parse_manifest
from splitfrozen_server.blobs import NO_SPACE, PART, flush_directory

STALE = 24 * 3600.0  # seconds without a new file until an upload is given up


@dataclass(frozen=True)
class Staged:
    """An upload that has begun."""

    directory: Path
    manifest: Manifest

    def missing(self) -> list[str]:
        """Files that have not arrived, in the manifest's order."""
        return [name for name in self.manifest.files if not (self.directory / name).exists()]

    def outstanding(self) -> int:
        """Bytes that have not arrived."""
        return sum(self.manifest.files[name].size for name in self.missing())


class Incoming:
    """The directory of unfinished uploads. All calls block."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, tenant: str, bundle: str) -> Staged | None:
        """An upload that has begun, or None."""
        return _open(self._place(tenant, bundle))

    def begin(self, tenant: str, bundle: str, raw: bytes, manifest: Manifest) -> Staged:
        """Make a place for the files of a manifest; the one that is there if it has begun."""
        place = self._place(tenant, bundle)
        if (found := _open(place)) is not None:
            return found
        with _full_disk():
            place.mkdir(parents=True, exist_ok=True)
            with self.receive(FileEntry(bundle, len(raw))) as body:
                body.write(raw)
                body.keep(place / MANIFEST_NAME)
            flush_directory(self.root)
        return Staged(place, manifest)

    def receive(self, entry: FileEntry) -> Body:
        """Open a body that must turn out to be `entry`."""
        self.root.mkdir(exist_ok=True)
        return Body(self.root / f"{secrets.token_hex(8)}{PART}", entry)

    def compare(self, entry: FileEntry) -> Body:
        """A body that must turn out to be `entry` and is written nowhere: it is there already."""
        return Body(None, entry)

    def drop(self, tenant: str, bundle: str) -> bool:
        """Forget an upload; whether there was one."""
        place = self._place(tenant, bundle)
        found = place.exists()
        shutil.rmtree(place, ignore_errors=True)
        return found

    def all(self) -> Iterator[Staged]:
        """Every upload that has begun."""
        for place in self.root.iterdir() if self.root.exists() else ():
            if place.is_dir() and (found := _open(place)) is not None:
                yield found

    def drop_stale(self, now: float | None = None) -> int:
        """Remove uploads that nobody has touched for STALE seconds; returns how many."""
        oldest = (time.time() if now is None else now) - STALE
        places = [path for path in self.root.glob("*") if path.is_dir()]
        stale = [place for place in places if place.stat().st_mtime < oldest]
        for place in stale:
            shutil.rmtree(place, ignore_errors=True)
        return len(stale)

    def delete_parts(self) -> int:
        """Remove bodies that an earlier process was receiving; call before the first request."""
        parts = list(self.root.glob(f"*{PART}"))
        for part in parts:
            part.unlink()
        return len(parts)

    def _place(self, tenant: str, bundle: str) -> Path:
        return self.root / f"{tenant}.{bundle}"


class Body:
    """One file while it arrives; gone at the end of its `with` unless it was kept."""

    def __init__(self, part: Path | None, entry: FileEntry) -> None:
        self._part = part
        self._entry = entry
        self._state = hashlib.sha256()
        self._size = 0
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Body:
        if self._part is None:
            return self
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with _full_disk():
            self._stream = os.fdopen(os.open(self._part, flags, 0o600), "wb")
        return self

    def __exit__(self, *_error: object) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # a full disk was reported by `write`
                self._stream.close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)

    def write(self, piece: bytes) -> None:
        """Take the next bytes. Raises RefusedError `hash_mismatch`, `insufficient_storage`."""
        self._size += len(piece)
        if self._size > self._entry.size:
            raise _wrong(f"has more than its {self._entry.size} bytes")
        self._state.update(piece)
        if self._stream is not None:
            with _full_disk():
                self._stream.write(piece)

    def keep(self, target: Path) -> None:
        """Make the file durable under its name. Raises RefusedError as `write`, `not_found`."""
        if self._size != self._entry.size:
            raise _wrong(f"has {self._size} bytes, not {self._entry.size}")
        if (found := self._state.hexdigest()) != self._entry.sha256:
            raise _wrong(f"has SHA-256 {found[:12]}…, not {self._entry.sha256[:12]}…")
        if self._part is None or self._stream is None:
            return
        with _full_disk():
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
        try:
            self._part.replace(target)
            flush_directory(target.parent)
        except FileNotFoundError:
            raise RefusedError(
                "not_found",
                "the upload was finished or given up meanwhile; send the manifest again",
            ) from None


def _open(place: Path) -> Staged | None:
    try:
        raw = (place / MANIFEST_NAME).read_bytes()
    except FileNotFoundError:
        return None
    if bundle_id(raw) != place.suffix[1:]:  # the disk lost it: as if it had never come
        return None
    return Staged(place, parse_manifest(raw))


def _wrong(what: str) -> RefusedError:
    return RefusedError("hash_mismatch", f"the body {what}")


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise RefusedError("insufficient_storage", "the server's disk is full") from error
        raise
