"""Shard bytes on disk, named by their SHA-256. The only module that writes them.

A put writes a `.part` file, flushes it, renames it and flushes the directory: after it returns,
the bytes survive a power cut, and no reader ever sees half a blob.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from splitfrozen.errors import RefusedError

PART = ".part"
_DIGEST = re.compile(r"[0-9a-f]{64}")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BlobStore:
    """Blobs in `root/ab/abcd...`; all calls block, so the API makes them in threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        for number in range(256):  # now, so that no put depends on a directory not yet flushed
            (root / f"{number:02x}").mkdir(exist_ok=True)
        flush_directory(root)
        flush_directory(root.parent)

    def put(self, body: bytes, digest: str) -> str:
        """Store `body` durably and return its key, the digest. Storing again is harmless.

        Raises RefusedError `insufficient_storage` when the disk is full; nothing is left then.
        """
        path = self.path(digest)
        part = path.with_name(f"{digest}.{secrets.token_hex(4)}{PART}")
        try:
            _write_durably(part, body)
            part.replace(path)
            flush_directory(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            if error.errno in NO_SPACE:
                raise RefusedError("insufficient_storage", "the server's disk is full") from error
            raise
        return digest

    def path(self, key: str) -> Path:
        """Where a blob lies; ValueError for what is not a digest."""
        if not _DIGEST.fullmatch(key):
            raise ValueError(f"{key[:80]!r} is not a SHA-256 in hex")
        return self.root / key[:2] / key

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading; FileNotFoundError if it is not there."""
        return self.path(key).open("rb")

    def has(self, key: str) -> bool:
        """Whether a blob is there."""
        return self.path(key).is_file()

    def delete(self, key: str) -> None:
        """Remove a blob if it is there."""
        self.path(key).unlink(missing_ok=True)

    def keys(self) -> Iterator[str]:
        """Digests of all complete blobs."""
        for path in self.root.glob("??/*"):
            if _DIGEST.fullmatch(path.name):
                yield path.name

    def delete_parts(self) -> int:
        """Remove what interrupted puts left behind; call before the first put. Returns a count."""
        parts = list(self.root.glob(f"??/*{PART}"))
        for part in parts:
            part.unlink()
        return len(parts)


def _write_durably(path: Path, body: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
        stream.write(body)
        stream.flush()
        os.fsync(stream.fileno())


def flush_directory(path: Path) -> None:
    """Make renames and new names in `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
