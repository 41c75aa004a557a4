"""The client of an enrolled device, as commands use it."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from splitfrozen_edge.state import Enrolment, StateDirectory, StateError

if TYPE_CHECKING:
    from splitfrozen_edge.http.client import Client


def open_client(enrolment: Enrolment, retry_for: float, stop: threading.Event) -> Client:
    """Speak to the device's server; waiting ends with Stopped when `stop` is set.

    `retry_for`: seconds of waiting for a server that is away.
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
    )


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
