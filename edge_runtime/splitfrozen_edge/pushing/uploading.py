"""The uploading stage: what waits in the outbox -> the server, while the other stages work."""

from __future__ import annotations

import threading
import time

from splitfrozen.errors import RefusedError
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.http.refusals import GaveUpError
from splitfrozen_edge.outbox.store import Entry, Outbox
from splitfrozen_edge.progress import Progress
from splitfrozen_edge.pushing.gate import Gate
from splitfrozen_edge.pushing.stopping import TICK, Stop
from splitfrozen_edge.pushing.upload import Uploaded, settle_one


class Uploading:
    """Empties the outbox of one dataset."""

    def __init__(
        self,
        *,
        dataset: str,
        outbox: Outbox,
        client: Client,
        progress: Progress,
        gate: Gate,
        stop: Stop,
    ) -> None:
        self.totals = Uploaded()
        self.queued = threading.Event()  # there may be something new in the outbox
        self.collected = threading.Event()  # nothing new will come
        self.blocked = threading.Event()  # the outbox is full
        self._dataset = dataset
        self._outbox = outbox
        self._client = client
        self._progress = progress
        self._gate = gate
        self._stop = stop
        self._failures = 0  # one after the other

    def run(self) -> None:
        """Send until all is collected and nothing waits; RefusedError when that cannot be."""
        while True:
            self._stop.check()
            self.queued.clear()
            # Read before the outbox: a shard that is queued between the two is not missed.
            done = self.collected.is_set()
            entry = self._outbox.next(self._dataset)
            if entry is not None:
                self._send(entry)
            elif done:
                return
            else:
                self.queued.wait(TICK)

    def _send(self, entry: Entry) -> None:
        self._gate.before_upload(len(entry.body))
        self._stop.check()
        try:
            settled = settle_one(self._client, self._outbox, entry, self.totals)
        except RefusedError as error:
            if not error.retryable:
                raise
            self._rest(error)
        else:
            self._failures = 0
            self._progress.uploaded(settled)

    def _rest(self, error: RefusedError) -> None:
        """Offline: leave the server alone while there is anything to compute and room for it."""
        if self._is_idle():
            raise error
        self._failures += 1
        asked = error.retry_after if isinstance(error, GaveUpError) else None
        now = time.monotonic()
        until = now + self._client.policy.delay(self._failures, asked)
        while time.monotonic() < until and not self._is_idle():
            self._stop.wait(TICK)
        if time.monotonic() < now + (asked or 0.0):
            raise error  # nothing left to do meanwhile, and the server wants no request yet

    def _is_idle(self) -> bool:
        return self.collected.is_set() or self.blocked.is_set()
