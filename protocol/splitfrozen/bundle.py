"""A bundle directory, opened only after every byte of it was checked against the manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from splitfrozen.errors import ManifestError
from splitfrozen.manifest import MANIFEST_NAME, FileEntry, Manifest, bundle_id, parse_manifest

CHECKSUM_NAME = "splitfrozen.json.sha256"  # beside the manifest, as `sha256sum` writes it
_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    directory: Path
    manifest: Manifest
    id: str  # SHA-256 of the manifest's bytes, hex

    def path(self, name: str) -> Path:
        """Path of a file that the manifest names."""
        if name not in self.manifest.files:
            raise ManifestError("missing_file", f"the bundle {self.directory} has no {name}")
        return self.directory / name


def read_bundle(directory: Path) -> Bundle:
    """Open a bundle and verify size and SHA-256 of every file that its manifest names.

    Raises ManifestError: `missing_file`, `hash_mismatch`, or what `parse_manifest` raises.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise ManifestError("missing_file", f"{directory} is no bundle: it has no {MANIFEST_NAME}")
    raw = path.read_bytes()
    check_manifest(directory, raw)
    manifest = parse_manifest(raw)
    for name, entry in manifest.files.items():
        verify_file(directory / name, entry)
    return Bundle(directory, manifest, bundle_id(raw))


def checksum_bytes(manifest: bytes) -> bytes:
    """The content of splitfrozen.json.sha256 for a manifest; `sha256sum -c` reads it too."""
    return f"{bundle_id(manifest)}  {MANIFEST_NAME}\n".encode()


def check_manifest(directory: Path, manifest: bytes) -> None:
    """Compare a manifest's bytes with the checksum beside it, where there is one.

    Without it, nothing in a directory would notice a changed byte in what only informs, such as
    the report. Raises ManifestError `hash_mismatch`.
    """
    path = directory / CHECKSUM_NAME
    if path.is_file() and path.read_bytes() != checksum_bytes(manifest):
        raise ManifestError(
            "hash_mismatch",
            f"{directory / MANIFEST_NAME} does not have the SHA-256 that {CHECKSUM_NAME} says: "
            "one of the two was changed; copy the bundle again",
        )


def verify_file(path: Path, entry: FileEntry) -> None:
    """Compare a file's size and SHA-256 with its manifest entry; ManifestError if they differ."""
    if path.is_symlink() or not path.is_file():
        raise ManifestError("missing_file", f"{path} is missing or not a plain file")
    size = path.stat().st_size
    if size != entry.size:
        raise ManifestError("hash_mismatch", f"{path} has {size} bytes, not {entry.size}")
    found = hash_file(path)
    if found != entry.sha256:
        raise ManifestError(
            "hash_mismatch", f"{path} has SHA-256 {found[:12]}…, not {entry.sha256[:12]}…"
        )


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hex, read in chunks."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()
