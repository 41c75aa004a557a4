"""Which token goes to which server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from splitfrozen.errors import SplitFrozenError


@dataclass(frozen=True)
class Token:
    """A bearer token and where it was found."""

    text: str
    origin: str  # in words


def find_token(
    server: str, token: Token | None, data_dir: Path, *, allow_plain_http: bool = False
) -> Token:
    """`token`, or for a server on this machine what it wrote to admin.token in `data_dir`.

    Whoever answers at another address must not be handed this machine's secret, and nobody on the
    way must read one. Raises SplitFrozenError `invalid_request` when there is none, or when it
    would travel in the clear to another machine without `allow_plain_http`.
    """
    if token is not None:
        if not (allow_plain_http or urlsplit(server).scheme == "https" or _is_this_machine(server)):
            raise SplitFrozenError(
                "invalid_request",
                f"a token would travel to {server} where everybody on the way can read it: use "
                "https://, or allow it with --allow-plain-http",
                param="server",
            )
        return token
    path = data_dir / "admin.token"
    if not _is_this_machine(server):
        raise _missing(
            f"{path} is sent to this machine only, not to {server}: give --token or set "
            "SPLITFROZEN_TOKEN"
        )
    try:
        return Token(path.read_text("utf-8").strip(), str(path))
    except (OSError, UnicodeDecodeError):
        raise _missing(
            f"{path} cannot be read: give --token, set SPLITFROZEN_TOKEN, or name the server's "
            "--data-dir"
        ) from None


def _is_this_machine(server: str) -> bool:
    try:
        host = urlsplit(server).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _missing(reason: str) -> SplitFrozenError:
    return SplitFrozenError("invalid_request", f"no token: {reason}", param="token")
