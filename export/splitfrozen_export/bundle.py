"""Write a bundle, or another directory, so that it is there completely or not at all.

Everything is written into a draft beside the target, flushed to the disk, and renamed. What a
killed export leaves behind is a hidden draft, which the next export to the same place removes.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from splitfrozen.bundle import CHECKSUM_NAME, checksum_bytes, hash_file
from splitfrozen.errors import SplitFrozenError
from splitfrozen.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    bundle_id,
    manifest_bytes,
    parse_manifest,
)

RECORD = "export.json"  # a directory that holds it is a whole model or upper half of ours
KIND = "SplitFrozen export of a model"


@dataclass(frozen=True)
class Draft:
    """A directory that is being written."""

    target: Path
    directory: Path  # beside the target; write the files here

    def files(self) -> dict[str, FileEntry]:
        """Size and SHA-256 of every file written so far."""
        return {
            path.name: FileEntry(hash_file(path), path.stat().st_size)
            for path in sorted(self.directory.iterdir())
        }

    def publish(self, manifest: Manifest) -> str:
        """Write the manifest, make all of it durable and put it in place; return its id.

        Raises ManifestError, and changes nothing, for a manifest that no reader would open.
        """
        raw = manifest_bytes(manifest)
        parse_manifest(raw)
        (self.directory / MANIFEST_NAME).write_bytes(raw)
        (self.directory / CHECKSUM_NAME).write_bytes(checksum_bytes(raw))
        self.put_in_place()
        return bundle_id(raw)

    def put_in_place(self) -> None:
        """Make what was written durable and rename it to the target."""
        for path in self.directory.iterdir():
            _flush(path)
        _flush(self.directory)
        _put_in_place(self.directory, self.target)


def check_target(
    target: Path,
    *,
    force: bool,
    marker: str = MANIFEST_NAME,
    kind: str = "bundle",
    recover: bool = True,
) -> None:
    """Raise SplitFrozenError unless a directory of a kind may be written to `target`.

    One that holds the file `marker` is of the kind. What an export killed while replacing it left
    there is put right first, unless `recover` is off: the old one may be hidden beside the target,
    where no refusal would mention it.

    `name_taken`: something is there and `force` is off. `invalid_request`: what is there is of
    another kind, so it is not replaced even with `force`.
    """
    target = target.absolute()
    if recover:
        _recover(target)
    if target.is_symlink() and not target.exists():
        raise SplitFrozenError(
            "invalid_request", f"{target} is a link to nothing; choose another --output"
        )
    if not target.exists() or _is_empty(target):
        return
    if not (target / marker).is_file():
        raise SplitFrozenError(
            "invalid_request", f"{target} exists and is no {kind}; choose another --output"
        )
    if not force:
        raise SplitFrozenError(
            "name_taken", f"{target} is a {kind} already; give --force to replace it"
        )


@contextmanager
def draft_bundle(target: Path, *, force: bool) -> Iterator[Draft]:
    """Open a draft of a bundle; it is gone at the end unless `publish` put it in place."""
    with draft_directory(target, force=force) as draft:
        yield draft


@contextmanager
def draft_directory(
    target: Path, *, force: bool, marker: str = MANIFEST_NAME, kind: str = "bundle"
) -> Iterator[Draft]:
    """Open a draft for `target`; it is gone at the end unless `put_in_place` was called.

    `marker` and `kind` are those of `check_target`, whose errors it raises.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    check_target(target, force=force, marker=marker, kind=kind)
    directory = target.parent / f".{target.name}.{secrets.token_hex(4)}.draft"
    directory.mkdir()
    with _lock(directory):
        try:
            yield Draft(target, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _recover(target: Path) -> None:
    """Undo what a killed export left: drafts, and a bundle that was being replaced."""
    kept = _replaced(target)
    if os.path.lexists(kept):
        _remove(kept) if os.path.lexists(target) else kept.rename(target)
    for leftover in target.parent.glob(f".{target.name}.*.draft"):
        try:
            with _lock(leftover):
                shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:
            continue  # another export is at work


def _put_in_place(directory: Path, target: Path) -> None:
    kept = _replaced(target)
    replaces = os.path.lexists(target)
    try:
        if replaces:
            target.rename(kept)  # a directory with files in it cannot be renamed over
        directory.rename(target)
    except BaseException:  # also an interruption: the old one must not stay hidden
        if os.path.lexists(kept) and not os.path.lexists(target):
            kept.rename(target)
        raise
    _flush(target.parent)
    if replaces:
        _remove(kept)


def _remove(path: Path) -> None:
    """Remove a directory; of a link to one, only the link."""
    path.unlink() if path.is_symlink() else shutil.rmtree(path)


def _replaced(target: Path) -> Path:
    return target.parent / f".{target.name}.replaced"


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Hold an exclusive lock that dies with the process; BlockingIOError when it is taken."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
