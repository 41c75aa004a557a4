"""From a pin to the certificate that it stands for, which the server itself hands over.

The connection that fetches it is not verified, so nothing secret travels on it and nothing that
comes over it is believed before its SHA-256 is compared.
"""

from __future__ import annotations

import http.client
import ssl
from urllib.parse import urlsplit

from splitfrozen.errors import RefusedError
from splitfrozen.version import PROTOCOL
from splitfrozen_edge.identity.failures import CertificateError
from splitfrozen_edge.identity.trust import certificates, fingerprint

TIMEOUT = 10.0  # seconds for each of connecting, handshake and answer
_MAX_PEM = 65_536  # bytes
_DEFAULT_PORT = 443


def fetch_pinned(server: str, pin: str) -> str:
    """PEM of the certificate with the fingerprint `pin`: the server's own, or that of its CA.

    Raises CertificateError if the server has neither, RefusedError `unavailable` if it is not
    reached.
    """
    connection = _connect(server)
    try:
        leaf = shown_certificate(connection)
        if fingerprint(leaf) == pin:
            return ssl.DER_cert_to_PEM_cert(leaf)
        offered = _fetch_ca(connection, urlsplit(server).path)
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(server, error) from error
    finally:
        connection.close()
    for der in offered:
        if fingerprint(der) == pin:
            return ssl.DER_cert_to_PEM_cert(der)
    came = ", ".join(fingerprint(der) for der in [leaf, *offered])
    raise CertificateError(
        f"{server} does not have the pinned certificate: expected {pin}, it has {came}. Compare "
        "with what `splitfrozen-server tls show` prints on the server itself; if that differs from "
        "what came, somebody is in between"
    )


def shown_fingerprint(server: str) -> str | None:
    """Fingerprint of the certificate that a server shows, unverified; None if it shows none."""
    try:
        connection = _connect(server)
    except (RefusedError, OSError):
        return None
    try:
        return fingerprint(shown_certificate(connection))
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def shown_authorities(server: str) -> list[str]:
    """Fingerprints of the authority that a server says is its own, unverified; often none."""
    try:
        connection = _connect(server)
    except (RefusedError, OSError):
        return []
    try:
        return [fingerprint(der) for der in _fetch_ca(connection, urlsplit(server).path)]
    except (OSError, http.client.HTTPException):
        return []
    finally:
        connection.close()


def shown_certificate(connection: http.client.HTTPSConnection) -> bytes:
    """Connect, and give the server's certificate in DER, unverified."""
    connection.connect()
    stream = connection.sock
    if not isinstance(stream, ssl.SSLSocket):
        raise ssl.SSLError("no TLS on this connection")
    return stream.getpeercert(binary_form=True) or b""


def _connect(server: str) -> http.client.HTTPSConnection:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    parts = urlsplit(server)
    try:
        port = parts.port or _DEFAULT_PORT
    except ValueError as error:
        raise _unreachable(server, error) from error
    return http.client.HTTPSConnection(parts.hostname or "", port, timeout=TIMEOUT, context=context)


def _fetch_ca(connection: http.client.HTTPSConnection, base: str) -> list[bytes]:
    """What GET /v1/ca answers; nothing where the server has no CA of its own."""
    headers = {"SplitFrozen-Protocol": PROTOCOL, "User-Agent": "splitfrozen-edge"}
    connection.request("GET", f"{base.rstrip('/')}/v1/ca", headers=headers)
    answer = connection.getresponse()
    body = answer.read(_MAX_PEM)
    return certificates(body.decode("ascii", "replace")) if answer.status == 200 else []


def _unreachable(server: str, error: Exception) -> RefusedError:
    reason = str(error) or type(error).__name__
    return RefusedError("unavailable", f"cannot reach {server}: {reason}")
