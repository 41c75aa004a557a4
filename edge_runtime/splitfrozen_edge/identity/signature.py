"""Ed25519 by PyNaCl, for `splitfrozen.sig` (SPEC 6.7). The only importer of nacl."""

from __future__ import annotations

from nacl.exceptions import BadSignatureError
from nacl.exceptions import ValueError as WrongLengthError
from nacl.signing import VerifyKey

from splitfrozen.errors import ManifestError
from splitfrozen.signature import check_signature


def verify(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the holder of the public `key` [32] made `signature` [64] over `message`."""
    try:
        VerifyKey(key).verify(message, signature)
    except (BadSignatureError, WrongLengthError):
        return False
    return True


def check_bundle(raw: bytes | None, manifest: bytes, key: str) -> None:
    """Refuse a manifest that the pinned server did not sign; `raw` is splitfrozen.sig or None.

    Raises ManifestError `bad_signature` with what to do.
    """
    try:
        if raw is None:
            raise ManifestError("bad_signature", "the server has no splitfrozen.sig for the bundle")
        check_signature(raw, manifest, verify, key=key)
    except ManifestError as error:
        raise ManifestError(
            error.code,
            f"the downloaded bundle is not signed by the server that this device was enrolled at "
            f"(key {key[:12]}…): {error.message}. Nothing of it was kept. If the owner of the "
            "server gave it a new key, enroll again: splitfrozen-edge enroll --force …",
        ) from None
