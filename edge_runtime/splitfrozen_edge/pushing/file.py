"""`push`: check a data file, compute what the server lacks, send it. Continues where it stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable

from splitfrozen_edge.http.client import Client
from splitfrozen_edge.pushing.gate import Gate
from splitfrozen_edge.pushing.options import PushRequest
from splitfrozen_edge.pushing.pusher import open_pusher
from splitfrozen_edge.pushing.report import PushReport
from splitfrozen_edge.state import StateDirectory

__all__ = ["PushRequest", "push_file"]


def push_file(
    request: PushRequest,
    state: StateDirectory,
    client: Client,
    *,
    stop: threading.Event | None = None,
    warn: Callable[[str], None] = lambda message: None,
    gate: Gate | None = None,
    max_age: float | None = None,
) -> PushReport:
    """Bring every row of a file into a dataset exactly once.

    `stop` ends it early. `max_age`: seconds after which what still waits is warned about. What the
    server refuses for good is set aside and is in the report. Raises DataError (nothing was
    computed), RefusedError (what was collected stays queued; the same call continues), StateError,
    ManifestError, QuantizeError.
    """
    with open_pusher(request.options, state, client, stop=stop, warn=warn, gate=gate) as pusher:
        report = pusher.push_file(request.data)
        if max_age is not None:
            pusher.warn_of_old(max_age)
    return report
