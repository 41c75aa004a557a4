"""The command line that enrols a device: what an operator copies to it."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from splitfrozen_server.config import is_loopback


def enrol_command(server: str, token: str, pin: str | None) -> str:
    """`splitfrozen-edge enroll …`, to be pasted on the device."""
    words = ["splitfrozen-edge", "enroll", "--server", server, "--token", token]
    return shlex.join([*words, *(["--pin", pin] if pin else [])])


def device_address(server: str, hosts: list[str]) -> str:
    """The URL by which devices reach a server that its operator reaches as `server`.

    An operator on the server itself says localhost; devices need another name of the certificate.
    """
    parts = urlsplit(server)
    others = [host for host in hosts if not is_loopback(host)]
    if not is_loopback(parts.hostname or "") or not others:
        return server
    host = f"[{others[0]}]" if ":" in others[0] else others[0]
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
