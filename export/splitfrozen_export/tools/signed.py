"""Ed25519 for bundle signatures. The only importer of cryptography in the exporter."""

from __future__ import annotations

from pathlib import Path

from splitfrozen.errors import ManifestError
from splitfrozen.signature import SIGNATURE_NAME, Signature, check_signature, parse_key


def check_signed(directory: Path, manifest: bytes, *, key: str | None) -> Signature | None:
    """Check the signature beside a manifest; None if there is none and no `key` asks for one.

    Raises ManifestError `bad_signature`.
    """
    wanted = None if key is None else parse_key(key)
    path = directory / SIGNATURE_NAME
    if not path.exists():
        if wanted is None:
            return None
        raise ManifestError(
            "bad_signature",
            f"{directory} has no {SIGNATURE_NAME}, but a signature by {wanted[:12]}… is required: "
            "download it from the server that published the bundle",
        )
    return check_signature(path.read_bytes(), manifest, verify_ed25519, key=wanted)


def verify_ed25519(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether a signature of RFC 8032 (64 bytes) over `message` is by `key` (32 bytes)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):  # ValueError: the key is no point of the curve
        return False
    return True
