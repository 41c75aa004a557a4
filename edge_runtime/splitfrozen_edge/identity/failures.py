"""Servers that cannot be trusted, in words: what was expected, what came, what to do now."""

from __future__ import annotations

import ssl
import time
from urllib.parse import urlsplit, urlunsplit

from splitfrozen.errors import RefusedError

_NOT_YET_VALID, _EXPIRED, _HOST, _ADDRESS = 9, 10, 62, 64  # X509_V_ERR_… of OpenSSL


class CertificateError(RefusedError):
    """The server cannot prove that it is the one; trying again changes nothing."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_certificate", message)


def certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """The refused certificate behind an error of a connection, if that is what is behind it."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLCertVerificationError):
            return found
        found = found.__cause__ or found.__context__
    return None


def redirect_words(server: str, location: str) -> str:
    """Why a device does not go where the server sends it."""
    target = location[:200]
    if server.startswith("https://") and target.lower().startswith("http://"):
        return (
            f"{server} sends on to {target}, which is not encrypted: refused. Somebody is in "
            "between, or a proxy in front of the server is set up wrongly"
        )
    return (
        f"{server} sends on to {target}; this device does not follow with its token. If the server "
        "moved there: splitfrozen-edge enroll --force --server …"
    )


def wrong_scheme_words(server: str, error: BaseException) -> str | None:
    """What to say if the server speaks http where https is asked for, or the other way round."""
    if server.startswith("https://"):
        found = str(error)
        if any(reason in found for reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")):
            return f"{server} does not speak TLS: does the server speak http? Try http://"
        return None
    if "disconnected without sending" not in str(error):
        return None
    from splitfrozen_edge.identity.pinning import shown_fingerprint

    # A connection may break like this for other reasons, too: only a handshake tells.
    parts = urlsplit(server)
    if shown_fingerprint(urlunsplit(parts._replace(scheme="https"))) is None:
        return None
    return f"{server} does not speak plain http: does the server speak https? Try https://"


def certificate_words(
    server: str, error: ssl.SSLCertVerificationError, pin: str | None = None
) -> str:
    """Why the server's certificate was refused, and what to do; asks the server what it shows.

    `pin`: fingerprint that this device was enrolled with, if it was.
    """
    host = urlsplit(server).hostname or server
    head = f"the certificate of {server} is refused: "
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        today = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        when = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return (
            f"{head}it {when} (this device's clock says {today} UTC: set it if that is wrong). On "
            "the server: splitfrozen-server tls renew, then restart it; devices stay enrolled"
        )
    if error.verify_code in (_HOST, _ADDRESS):
        return (
            f"{head}it is not for {host}. Use a name that it was made for, or add this one on the "
            f"server: splitfrozen-server tls renew --host {host}, then restart it"
        )
    return head + _untrusted(server, error, pin)


def _untrusted(server: str, error: ssl.SSLCertVerificationError, pin: str | None) -> str:
    from splitfrozen_edge.identity.pinning import shown_authorities, shown_fingerprint

    came = shown_fingerprint(server) or "a certificate that could not be read"
    if pin is None:
        authorities = ", ".join(shown_authorities(server))
        signer = f"; its own authority's, which tls show prints: {authorities}" * bool(authorities)
        return (
            f"no authority that this device trusts signed it ({error.verify_message}; "
            f"CERTIFICATE_VERIFY_FAILED). The server's own certificate: {came}{signer}. If the "
            "server is yours: compare with splitfrozen-server tls show there, then "
            "splitfrozen-edge enroll with --pin sha256:… or with --ca-file"
        )
    return (
        f"it is not the pinned one and not signed by it. Expected {pin}, came {came} "
        f"({error.verify_message}). If the server's owner made a new one, compare with "
        "splitfrozen-server tls show and enroll again: splitfrozen-edge enroll --force --pin "
        "sha256:…; otherwise somebody is in between, and nothing was sent"
    )
