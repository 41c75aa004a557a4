"""Certificates that a device trusts: fingerprints, pins, and the context that checks them."""

from __future__ import annotations

import hashlib
import re
import ssl
from pathlib import Path

from splitfrozen_edge.state import StateError

_PIN = re.compile(r"sha256:([0-9a-f]{64})")
_PEM = re.compile("-----BEGIN CERTIFICATE-----.{1,20000}?-----END CERTIFICATE-----", re.DOTALL)


def fingerprint(der: bytes) -> str:
    """`sha256:` and 64 hex digits of a certificate in DER, as `tls init` prints it."""
    return "sha256:" + hashlib.sha256(der).hexdigest()


def parse_pin(text: str) -> str:
    """A pin as a person copies it: any case, with or without colons between bytes. StateError."""
    kind, _, digits = text.strip().lower().partition(":")
    found = f"{kind}:{digits.replace(':', '')}"
    if not _PIN.fullmatch(found):
        raise StateError(
            f"--pin {text[:90]}: needs sha256: and 64 hex digits, as splitfrozen-server tls init "
            "printed it"
        )
    return found


def certificates(pem: str) -> list[bytes]:
    """The certificates of a PEM text as DER; what cannot be read is left out."""
    found = []
    for block in _PEM.findall(pem):
        try:
            found.append(ssl.PEM_cert_to_DER_cert(block))
        except ValueError:
            continue
    return found


def context_for(ca_file: Path | None) -> ssl.SSLContext:
    """What verifies a server: only the certificates of `ca_file`, or the public authorities.

    A certificate of `ca_file` may be the server's own. Host name or address are checked in either
    case. Raises StateError for a file without a readable certificate.
    """
    if ca_file is None:
        import certifi

        return ssl.create_default_context(cafile=certifi.where())
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:  # ssl's own errors are OSErrors too
        reason = error.strerror or error
        raise StateError(
            f"{ca_file} holds no certificate that can be read ({reason}): enroll again with "
            "--ca-file or --pin"
        ) from None
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # Certificates that people made for a LAN long ago lack what Python 3.13 asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
