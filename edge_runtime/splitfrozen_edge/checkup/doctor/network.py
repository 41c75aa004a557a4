"""The way to the server, stage by stage: name, connection, TLS, HTTP. Each has a check of its own.

Not through the client, which would say "unavailable" to all of them; it needs the standard library
only, so it works where the client's own libraries do not.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from splitfrozen.wire import PROTOCOL
from splitfrozen_edge.checkup.doctor.findings import Finding, fail, ok, warn
from splitfrozen_edge.checkup.doctor.network_words import (
    Answer,
    judge_certificate,
    judge_connection,
    judge_offset,
    judge_ready,
    judge_resolution,
    judge_tls_failure,
    judge_token,
    judge_version,
)
from splitfrozen_edge.identity.trust import context_for
from splitfrozen_edge.state import Enrolment, StateError

_LIMIT = 1 << 20  # bytes of an answer
_WITHOUT_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME


@dataclass(frozen=True)
class Server:
    """Where to go. The token is sent, never shown."""

    host: str
    port: int
    secure: bool
    path: str  # before every route
    token: str
    ca_file: Path | None  # what is trusted; None: the public authorities
    pin: str | None  # fingerprint that it was compared with


def server_of(enrolment: Enrolment) -> Server | None:
    """The parts of the enrolled server's URL; None if it is none."""
    try:
        url = urlsplit(enrolment.server)
        port = url.port
    except ValueError:
        return None
    if url.scheme not in ("http", "https") or not url.hostname:
        return None
    secure = url.scheme == "https"
    default = 443 if secure else 80
    path = url.path.rstrip("/")
    ca_file = Path(enrolment.ca_file) if enrolment.ca_file else None
    return Server(
        url.hostname, port or default, secure, path, enrolment.token, ca_file, enrolment.pin
    )


def check_network(
    server: Server, *, seconds: float = 10.0, now: Callable[[], float] = time.time
) -> Iterator[Finding]:
    """Ends at the first stage that fails: nothing behind it can be known.

    `seconds`: patience with each address and answer; `now` is this device's clock.
    """
    try:
        addresses = resolve(server.host, server.port)
    except (OSError, UnicodeError) as error:
        yield judge_resolution(server.host, error)
        return
    yield ok("name", f"{server.host} is {', '.join(addresses[:3])}")
    try:
        connect(server, seconds).close()
    except OSError as error:
        yield judge_connection(server.host, server.port, error)
        return
    yield ok("connection", f"{server.host} port {server.port} is open")
    if server.secure:
        finding = _check_tls(server, seconds, now())
        yield finding
        if finding.status == "fail":
            return
    yield from _check_answers(server, seconds, now)


def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host, without repetition."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def connect(server: Server, seconds: float) -> socket.socket:
    """A TCP connection to the first address that takes one."""
    return socket.create_connection((server.host, server.port), timeout=seconds)


def _check_tls(server: Server, seconds: float, now: float) -> Finding:
    try:
        with _secure(server, context_for(server.ca_file), seconds) as stream:
            certificate = stream.getpeercert()
    except StateError as error:
        return fail("certificate", str(error), "the device's copy of it is damaged or gone")
    except OSError as error:
        unchecked = None
        if isinstance(error, ssl.SSLCertVerificationError):
            unchecked = _without_time(server, seconds)
        return judge_tls_failure(server.host, error, unchecked, server.pin, now)
    return judge_certificate(certificate or {}, now)


def _secure(server: Server, context: ssl.SSLContext, seconds: float) -> ssl.SSLSocket:
    raw = connect(server, seconds)
    try:
        return context.wrap_socket(raw, server_hostname=server.host)
    except BaseException:
        raw.close()
        raise


def _without_time(server: Server, seconds: float) -> Mapping[str, Any] | None:
    """The certificate checked in all but its dates; nothing is sent over that connection."""
    context = context_for(server.ca_file)
    context.verify_flags |= ssl.VerifyFlags(_WITHOUT_TIME)
    try:
        with _secure(server, context, seconds) as stream:
            return stream.getpeercert()
    except OSError:
        return None


def _check_answers(server: Server, seconds: float, now: Callable[[], float]) -> Iterator[Finding]:
    version = ask(server, "/version", seconds)
    finding = judge_version(version)
    yield finding
    offset = judge_offset(version, now())
    if offset is not None:
        yield offset
    if finding.status == "fail":
        return  # what is no server of ours must not see the token
    yield judge_ready(ask(server, "/ready", seconds))
    answer = ask(server, "/v1/devices/self", seconds, token=server.token)
    if answer.status == 404:  # a server of an earlier version
        answer = ask(server, "/v1/models", seconds, token=server.token)
    yield judge_token(answer)


def ask(server: Server, path: str, seconds: float, *, token: str | None = None) -> Answer:
    """GET one route over a connection of its own; what goes wrong is in the answer."""
    headers = {"Accept": "application/json", "SplitFrozen-Protocol": PROTOCOL}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    connection = HTTPConnection(server.host, server.port, timeout=seconds)
    try:
        if server.secure:
            connection.sock = _secure(server, context_for(server.ca_file), seconds)
        connection.request("GET", server.path + path, headers=headers)
        response = connection.getresponse()
        raw = response.read(_LIMIT)
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, _document(raw))
    except TimeoutError:
        return Answer(error=f"nothing came within {seconds:.0f} s")
    except (OSError, HTTPException, ValueError) as error:
        # A header's text may be the token's: only the kind of a ValueError is told.
        told = type(error).__name__ if isinstance(error, ValueError) else str(error)
        return Answer(error=told or type(error).__name__)
    finally:
        connection.close()


def _document(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def check_proxy(proxies: Mapping[str, str], server: Server) -> Finding | None:
    """The checks below go straight; the client itself would take a proxy."""
    scheme = "https" if server.secure else "http"
    if not (proxies.get(scheme) or proxies.get("all")):
        return None
    found = f"a proxy is set for {scheme}, and the following checks go without it"
    return warn("proxy", found, f"for a server in this network, set no_proxy={server.host}")
