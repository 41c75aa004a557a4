"""A bundle's detached signature, `splitfrozen.sig` (SPEC 6.7). Pure; knows no cryptography.

The manifest names every other file by its SHA-256, so a signature over the manifest's bytes is one
over the bundle. Ed25519 itself comes from the caller: this package needs numpy and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from splitfrozen.errors import ManifestError

SIGNATURE_NAME = "splitfrozen.sig"
SIGNATURE_FORMAT = 1
MAX_SIGNATURE = 4096  # bytes of the file
_KEY = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")

Verify = Callable[[bytes, bytes, bytes], bool]  # key, signature, message -> made by the key?


@dataclass(frozen=True)
class Signature:
    """Who signed a manifest."""

    key: str  # Ed25519 public key, 64 hex digits
    signature: str  # Ed25519 over the manifest's bytes, 128 hex digits
    format: int = SIGNATURE_FORMAT


def signature_bytes(signature: Signature) -> bytes:
    """The file: JSON with sorted keys, two spaces, one newline at the end."""
    document = {
        "format": signature.format,
        "key": signature.key,
        "signature": signature.signature,
    }
    return (json.dumps(document, sort_keys=True, indent=2) + "\n").encode()


def parse_signature(raw: bytes) -> Signature:
    """Read the file; ManifestError `bad_signature` says what is wrong with it."""
    if len(raw) > MAX_SIGNATURE:
        raise _bad(f"has {len(raw)} bytes, more than {MAX_SIGNATURE}")
    try:
        document = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _bad(f"is not JSON: {error}") from None
    if not isinstance(document, dict) or set(document) != {"format", "key", "signature"}:
        raise _bad("is not an object of exactly format, key and signature")
    if type(document["format"]) is not int or document["format"] != SIGNATURE_FORMAT:
        raise _bad(f"has format {document['format']!r}; this version reads {SIGNATURE_FORMAT}")
    found = Signature(
        _hex("key", document["key"], _KEY),
        _hex("signature", document["signature"], _SIGNATURE),
    )
    if signature_bytes(found) != raw:  # so that no byte of the file can change unnoticed
        raise _bad("is not in its canonical form")
    return found


def parse_key(text: str) -> str:
    """A public key that a person typed: 64 hex digits. Raises ManifestError `bad_signature`."""
    wanted = text.strip().lower()
    if not _KEY.fullmatch(wanted):
        raise ManifestError(
            "bad_signature", f"{text[:80]!r} is no Ed25519 public key of 64 hex digits"
        )
    return wanted


def check_signature(raw: bytes, manifest: bytes, verify: Verify, *, key: str | None) -> Signature:
    """Check the file's bytes against the manifest's; `key`, when given, is the only one trusted.

    Without `key` this proves only that whoever holds the key in the file signed the manifest.
    Raises ManifestError `bad_signature`.
    """
    found = parse_signature(raw)
    if key is not None and found.key != key:
        raise _bad(f"was made by the key {found.key[:12]}…, not by {key[:12]}…")
    if not verify(bytes.fromhex(found.key), bytes.fromhex(found.signature), manifest):
        raise _bad(f"is not the signature of this manifest by the key {found.key[:12]}…")
    return found


def _hex(name: str, value: object, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise _bad(f"has a {name} that is not of the expected lower-case hex digits")
    return value


def _bad(what: str) -> ManifestError:
    return ManifestError("bad_signature", f"{SIGNATURE_NAME} {what}")
