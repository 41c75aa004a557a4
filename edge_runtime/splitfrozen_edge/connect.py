"""The client of an enrolled device, as commands use it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from splitfrozen_edge.state import Enrolment, StateDirectory, StateError

if TYPE_CHECKING:
    from splitfrozen.errors import RefusedError
    from splitfrozen_edge.http.client import Client

_ERRNO = re.compile(r"^\[Errno -?\d+\] ")  # for people a number too many


def open_client(
    enrolment: Enrolment,
    retry_for: float,
    stop: threading.Event,
    *,
    on_wait: Callable[[str], None] | None = None,
) -> Client:
    """Speak to the device's server; waiting ends with Stopped when `stop` is set.

    `retry_for`: seconds of waiting for a server that is away; `on_wait` is told, in words, when
    that begins.
    """
    from splitfrozen_edge.http.client import Client
    from splitfrozen_edge.http.retry import RetryPolicy
    from splitfrozen_edge.pushing.pipeline import Stopped

    def wait(seconds: float) -> None:
        if stop.wait(seconds):
            raise Stopped

    return Client(
        enrolment.server,
        enrolment.token,
        ca_file=Path(enrolment.ca_file) if enrolment.ca_file else None,
        pin=enrolment.pin,
        policy=RetryPolicy(patience=retry_for),
        wait=wait,
        newest_token=partial(_newest_token, enrolment),
        on_wait=None if on_wait is None else partial(_tell_wait, enrolment.server, on_wait),
    )


def _tell_wait(
    server: str, tell: Callable[[str], None], failure: RefusedError, seconds: float
) -> None:
    head, _, reason = failure.message.rpartition(f"cannot reach {server.rstrip('/')}: ")
    what = "does not answer" if head or reason != failure.message else "cannot do it now"
    reason = _ERRNO.sub("", reason)
    tell(f"server {server} {what} ({reason}); trying for {seconds:.0f} seconds, Ctrl-C ends")


def _newest_token(enrolment: Enrolment) -> str:
    """The token in the file now: another process may have rotated it."""
    if enrolment.origin is None:
        return enrolment.token
    try:
        found = StateDirectory(enrolment.origin.parent).enrolment()
    except StateError:
        return enrolment.token
    same = (found.server, found.device) == (enrolment.server, enrolment.device)
    return found.token if same else enrolment.token
