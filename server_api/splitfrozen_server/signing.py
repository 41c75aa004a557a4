"""The server's own key: it signs the manifest of every bundle that it publishes (SPEC 6.7).

Made at the first start, kept in the data directory, readable by the server's user only. A bundle
is signed anew each time its signature is asked for: Ed25519 gives the same bytes each time, it
takes microseconds, and bundles that were published before there was a key are signed too.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from splitfrozen.errors import SplitFrozenError
from splitfrozen.signature import Signature, signature_bytes
from splitfrozen_server.blobs import PART, flush_directory

_SEED = 32  # bytes of an Ed25519 private key (RFC 8032)


class BundleSigner:
    """Signs manifests with one private key."""

    def __init__(self, seed: bytes) -> None:
        """`seed` is the private key of RFC 8032, 32 bytes."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, manifest: bytes) -> bytes:
        """The bytes of splitfrozen.sig for a manifest."""
        return signature_bytes(Signature(self.public_key, self._key.sign(manifest).hex()))


def open_signer(path: Path) -> BundleSigner:
    """The signer whose key is in the file `path`, made if it is not there.

    Raises SplitFrozenError `invalid_request` for a file that holds no key: to sign with another one
    unasked would be taken for an attack by everybody who pinned the old one.
    """
    if not path.exists():
        _write(path, os.urandom(_SEED))
    try:
        seed = bytes.fromhex(path.read_text().strip())
    except ValueError:
        seed = b""
    if len(seed) != _SEED:
        raise SplitFrozenError(
            "invalid_request",
            f"{path} does not hold the server's key of {2 * _SEED} hex digits: put the file back "
            "from a backup, or remove it for a new key, which all who pinned the old must learn",
        )
    return BundleSigner(seed)


def _write(path: Path, seed: bytes) -> None:
    part = path.with_name(path.name + PART)
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(seed.hex() + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    flush_directory(path.parent)
