"""Making a device known to a server: whom to trust first, then the token, then all of it on disk.

Everything that is asked before the enrolment token is used may fail without costing one of its
uses.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from splitfrozen.errors import RefusedError
from splitfrozen_edge.connect import open_client
from splitfrozen_edge.state import Enrolment, StateDirectory, StateError

if TYPE_CHECKING:
    from splitfrozen_edge.http.client import Client

_KEY = re.compile(r"[0-9a-f]{64}")
_PACKAGES = ("splitfrozen", "onnxruntime", "tokenizers", "numpy")


def enroll_device(
    state: StateDirectory,
    server: str,
    token: str,
    *,
    name: str,
    ca_file: Path | None = None,
    pin: str | None = None,
    replace_old: bool = False,
    retry_for: float = 10.0,
    warn: Callable[[str], None] = lambda text: None,
    on_wait: Callable[[str], None] | None = None,
) -> Enrolment:
    """Enrol this device with an enrolment `token` and store what it is given, mode 0600.

    `ca_file` is copied: the original may move. `pin`: fingerprint of the server's certificate or
    of its CA's, which is fetched and compared. `retry_for`: seconds to wait for a server that is
    away; `on_wait` is told when that begins. Raises StateError, RefusedError, CertificateError.
    """
    _check(state, server, pin, ca_file, replace_old=replace_old, warn=warn)
    anchor = _anchor(server, pin, ca_file)
    old = state.enrolment() if state.is_enrolled() else None
    kept = None if anchor is None else state.store_authority(anchor)
    who = Enrolment(server, "", name, token, ca_file=kept, pin=_plain(pin))
    client = open_client(who, retry_for, threading.Event(), on_wait=on_wait)
    try:
        key = _bundle_key(client)
        device = client.enroll(name, describe_machine())
    except BaseException:
        if old is None or old.ca_file != kept:
            state.drop_authority(kept)
        raise
    finally:
        client.close()
    found = replace(who, device=str(device["id"]), token=str(device["token"]), bundle_key=key)
    state.store_enrolment(found)
    if old is not None and old.ca_file not in (None, kept):
        state.drop_authority(old.ca_file)
    return state.enrolment()


def describe_machine() -> dict[str, Any]:
    """What the server is told at enrolment: machine, system, versions; no serial numbers."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "release": platform.release()[:100],
        "python": platform.python_version(),
        "cores": os.cpu_count() or 0,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "versions": versions,
    }


def _check(
    state: StateDirectory,
    server: str,
    pin: str | None,
    ca_file: Path | None,
    *,
    replace_old: bool,
    warn: Callable[[str], None],
) -> None:
    if not server.startswith(("http://", "https://")):
        raise StateError(f"--server {server}: needs http:// or https://")
    if pin is not None and ca_file is not None:
        raise StateError("--pin and --ca-file say the same thing twice: give one of them")
    if server.startswith("http://"):
        _check_plain(state, server, warn=warn, trusted=pin or ca_file)
    if state.is_enrolled() and not replace_old:
        old = state.enrolment()
        raise StateError(f"already enrolled as {old.name} at {old.server}; --force replaces that")


def _check_plain(
    state: StateDirectory, server: str, *, warn: Callable[[str], None], trusted: object
) -> None:
    if trusted is not None:
        raise StateError(f"--server {server}: a certificate is trusted over https:// only")
    host = urlsplit(server).hostname
    if state.is_enrolled() and state.enrolment().server.startswith("https://"):
        old = state.enrolment().server
        if urlsplit(old).hostname == host:
            raise StateError(
                f"this device is enrolled at {old}; without encryption it does not go to {server}: "
                "use https, or remove the state directory if you really mean it"
            )
    if not is_loopback(server):
        warn("plain http: anyone on the way can read the token and the data; use https")


def _anchor(server: str, pin: str | None, ca_file: Path | None) -> bytes | None:
    """PEM of what is trusted besides the host name; None: the public authorities."""
    if pin is not None:
        from splitfrozen_edge.identity.pinning import fetch_pinned
        from splitfrozen_edge.identity.trust import parse_pin

        return fetch_pinned(server, parse_pin(pin)).encode()
    if ca_file is None:
        return None
    from splitfrozen_edge.identity.trust import context_for

    context_for(ca_file)  # StateError says what is wrong with it
    return ca_file.read_bytes()


def _plain(pin: str | None) -> str | None:
    if pin is None:
        return None
    from splitfrozen_edge.identity.trust import parse_pin

    return parse_pin(pin)


def _bundle_key(client: Client) -> str | None:
    """The key that signs the server's bundles; None where a server has none."""
    try:
        key = client.call("GET", "/version").get("bundle_key")
    except RefusedError as error:
        if error.code != "not_found":
            raise
        return None
    if key is None:
        return None
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise RefusedError("unavailable", "the server's bundle_key is not of 64 hex digits")
    return key


def is_loopback(server: str) -> bool:
    """Whether a server's URL can only mean this machine."""
    host = urlsplit(server).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
