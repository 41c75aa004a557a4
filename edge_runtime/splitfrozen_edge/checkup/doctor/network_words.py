"""What a server's silence, certificate or answer means, and what to do. Pure."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from splitfrozen.wire import PROTOCOL
from splitfrozen_edge.checkup.doctor.findings import Finding, fail, ok, warn

_SOON = 21  # days: a certificate that ends sooner is worth a word
_DAY = 86400.0
_SKEW_WARN, _SKEW_FAIL = 60.0, 600.0  # seconds between two clocks
_NOT_YET, _EXPIRED = 9, 10  # OpenSSL's X509_V_ERR_…
_WRONG_HOST = (62, 64)  # by name, by address
_CLOCK = "set the clock: sudo timedatectl set-ntp true"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, or why there was none."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    document: Any = None  # of its JSON body
    error: str = ""


def judge_resolution(host: str, error: OSError | UnicodeError) -> Finding:
    found = f"{host} has no address: {getattr(error, 'strerror', None) or error}"
    advice = "check the server's name and this device's network (ip addr; resolvectl status)"
    if host.endswith(".local"):
        advice = f"{advice}; a .local name needs avahi: sudo apt install libnss-mdns"
    return fail("name", found, advice)


def judge_connection(host: str, port: int, error: OSError) -> Finding:
    where = f"{host} port {port}"
    if isinstance(error, ConnectionRefusedError):
        found = f"{where} refuses: the machine is there, no server listens on that port"
        advice = "start splitfrozen-server there with --host 0.0.0.0, or correct the port"
        if host == "localhost" or host.startswith("127.") or host == "::1":
            advice = "start it here: splitfrozen-server serve; or correct the port"
        return fail("connection", found, advice)
    if isinstance(error, TimeoutError | socket.timeout):
        found = f"{where} does not answer"
        return fail("connection", found, "is it on and in this network? does a firewall block it?")
    advice = "check cable or Wi-Fi and the route: ip route; ping the server"
    return fail("connection", f"{where}: {error.strerror or error}", advice)


def judge_certificate(certificate: Mapping[str, Any], now: float) -> Finding:
    """A certificate that was accepted; how long it lasts, in days."""
    if "notAfter" not in certificate:
        return ok("certificate", "right for this server")
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = int((ends - now) // _DAY)
    if days < _SOON:
        advice = "have the server's certificate renewed before devices are locked out"
        return warn("certificate", f"valid for {days} more days only", advice)
    return ok("certificate", f"right for this server, valid for {days} more days")


def judge_tls_failure(
    host: str,
    error: OSError,
    certificate: Mapping[str, Any] | None,
    pin: str | None,
    now: float,
) -> Finding:
    """`certificate` as it is without regard to time, where that could be read."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (_NOT_YET, _EXPIRED):
            return _judge_dates(host, error, certificate or {}, now)
        return _judge_rejection(host, error, pin)
    reason = getattr(error, "reason", None) or ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        found = f"{host} does not speak TLS on this port"
        return fail("certificate", found, "enroll with http://, or correct the port")
    text = reason or error.strerror or str(error) or "it broke off"
    advice = "is the port that of an https server? does a proxy stand in between?"
    return fail("certificate", f"the TLS handshake with {host} fails: {text}", advice)


def _judge_dates(
    host: str,
    error: ssl.SSLCertVerificationError,
    certificate: Mapping[str, Any],
    now: float,
) -> Finding:
    today = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")
    words, field = ("not valid before", "notBefore")
    if error.verify_code == _EXPIRED:
        words, field = ("expired since", "notAfter")
    date = certificate.get(field, "a date that it does not tell")
    found = f"{host}'s certificate is {words} {date}; this device's clock says {today}"
    renew = "on the server: splitfrozen-server tls renew, then restart it"
    return fail("certificate", found, f"if that clock is wrong, {_CLOCK}; if not, {renew}")


def _judge_rejection(host: str, error: ssl.SSLCertVerificationError, pin: str | None) -> Finding:
    if error.verify_code in _WRONG_HOST:
        found = f"the certificate is not for {host}: {error.verify_message}"
        advice = f"on the server: splitfrozen-server tls renew --host {host}, then restart it"
        return fail("certificate", found, f"enroll with a name that it is for, or, {advice}")
    show = "compare with what splitfrozen-server tls show prints on the server"
    if pin is not None:
        found = f"{host}'s certificate is not the pinned one ({pin})"
        advice = f"{show}; if its owner made a new one: splitfrozen-edge enroll --force --pin …"
        return fail("certificate", found, f"{advice}; if not, somebody is in between")
    found = f"this device does not trust {host}'s certificate: {error.verify_message}"
    advice = f"if it is your own server: splitfrozen-edge enroll --force --pin sha256:…; {show}"
    return fail("certificate", found, advice)


def judge_version(answer: Answer) -> Finding:
    """GET /version: is it one of ours, and does it speak this protocol?"""
    if answer.error:
        advice = "is this a splitfrozen-server, and https:// or http:// as it should be?"
        return fail("server", f"no HTTP answer: {answer.error}", advice)
    if answer.status != 200 or not isinstance(answer.document, dict):
        found = f"something else answers (status {answer.status}): not a splitfrozen-server"
        return fail("server", found, "a captive portal or proxy? open the address in a browser")
    known = answer.document.get("protocols") or answer.document.get("protocol") or []
    listed = [str(item) for item in (known if isinstance(known, list) else [known])]
    version = answer.document.get("version", "?")
    if listed and PROTOCOL not in listed:
        found = f"version {version} speaks protocol {', '.join(listed)}; this device {PROTOCOL}"
        return fail(
            "server", found, "update whichever is older: pip install -U 'splitfrozen[edge]'"
        )
    return ok("server", f"splitfrozen-server {version}, protocol {PROTOCOL}")


def judge_ready(answer: Answer) -> Finding:
    """GET /ready."""
    if answer.status == 200 and isinstance(answer.document, dict):
        worker = answer.document.get("worker")
        if worker in (None, "running"):
            return ok("ready", "the server is ready")
        found = f"the server takes uploads; its worker is {worker}"
        return warn("ready", found, "predict and jobs wait; look at the server's log")
    advice = "uploads wait in the outbox until it is; look at the server's log"
    return warn("ready", f"the server is not ready: {answer.error or answer.status}", advice)


def judge_token(answer: Answer) -> Finding:
    """An authenticated GET with the device's token."""
    if answer.status == 200:
        return ok("token", "the server knows this device")
    if answer.status == 401:
        advice = "it was revoked, or the server was set up anew: enroll again with --force"
        return fail("token", "the server does not accept this device's token", advice)
    if answer.status == 403:
        advice = "enroll again with an enrolment token of this server"
        return fail("token", "the token's role may not do a device's work", advice)
    found = f"could not be tried: {answer.error or f'status {answer.status}'}"
    return warn("token", found, "try again; look at the server's log")


def judge_offset(answer: Answer, now: float) -> Finding | None:
    """The two clocks, by the answer's Date header; None without one."""
    try:
        theirs = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, TypeError):
        return None
    offset = now - theirs
    if abs(offset) < _SKEW_WARN:
        return ok("server-clock", "the server's clock and this one agree")
    way = "ahead of" if offset > 0 else "behind"
    found = f"this clock is {_span(abs(offset))} {way} the server's"
    advice = f"{_CLOCK}; or is it the server's that is wrong?"
    if abs(offset) < _SKEW_FAIL:
        return warn("server-clock", found, advice)
    return fail("server-clock", found, advice)


def _span(seconds: float) -> str:
    for name, length in (("days", _DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} seconds"
