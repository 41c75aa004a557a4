"""The daemon's network side: heartbeats, and what waits in the outbox. Never gives up.

It has a thread of its own, so that the processor never waits for the network.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from splitfrozen.errors import RefusedError
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.http.refusals import GaveUpError
from splitfrozen_edge.outbox.salvage import is_damage
from splitfrozen_edge.outbox.store import Outbox
from splitfrozen_edge.outbox.words import describe_database
from splitfrozen_edge.policy.gate import PolicyGate
from splitfrozen_edge.policy.rules import UPLOAD

HEARTBEAT = "/v1/devices/self/heartbeat"
BEAT = 60.0  # seconds between heartbeats, unless the server says otherwise
SLOWEST = 3600.0  # seconds; no server makes a device silent for longer
LONGEST = 300.0  # seconds between two tries at a server that is away
REFUSED = 600.0  # seconds until a server that refuses this device is asked again
TURN = 20.0  # seconds of uploading before a heartbeat may be due
PAUSED = 30.0  # seconds until a paused upload looks again


@dataclass
class Contact:
    """How it stands with the server; read by other threads, written by the courier."""

    reachable: bool | None = None  # None: not tried yet
    message: str = ""  # why not
    since: float | None = None  # wall clock; when that began
    last_heartbeat: float | None = None  # wall clock
    last_upload: float | None = None
    disk: str = ""  # what is wrong with the outbox; receipts cannot be noted


class Courier:
    """One step after the other; every step says how long to wait."""

    def __init__(
        self,
        client: Client,
        outbox: Outbox,
        gate: PolicyGate,
        stop: threading.Event,
        *,
        describe: Callable[[], Mapping[str, Any]],
        learn: Callable[[list[Mapping[str, Any]]], object],
        recompute: Callable[[str], object] = lambda dataset: None,
        say: Callable[[str], object] = lambda message: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`describe`: the heartbeat; `learn` hears the datasets of its answer.

        `recompute` hears the id of a dataset whose bundle the server has replaced, or of which
        something on the disk became unreadable.
        """
        self.contact = Contact()
        self._client = client
        self._outbox = outbox
        self._gate = gate
        self._stop = stop
        self._describe = describe
        self._learn = learn
        self._recompute = recompute
        self._say = say
        self._clock = clock
        self._failures = 0
        self._beat_at = clock()
        self._away_until = clock()

    def step(self) -> float:
        """Beat if it is time, send what waits; seconds until the next step is of use."""
        now = self._clock()
        if now < self._away_until:
            return self._away_until - now
        held = self._gate.blocks(UPLOAD)
        if any(reason.code == "metered" for reason in held):
            return PAUSED  # a heartbeat costs as well
        try:
            if now >= self._beat_at:
                self._beat()
            waiting = [dataset for dataset, _, _ in self._outbox.waiting()]
            if waiting and not held:
                return 0.0 if self._send(waiting) else self._until_beat()
        except RefusedError as error:
            return self._stand_back(error)
        except (sqlite3.Error, OSError) as error:
            return self._hold_back(error)
        return min(PAUSED, self._until_beat()) if held else self._until_beat()

    def _until_beat(self) -> float:
        return max(0.0, self._beat_at - self._clock())

    def _beat(self) -> None:
        try:
            answer = self._client.call("POST", HEARTBEAT, dict(self._describe()))
        except RefusedError as error:
            if error.code != "not_found":
                raise
            self._beat_at = self._clock() + SLOWEST  # a server of before heartbeats
            return self._reached()
        self._reached()
        self.contact.last_heartbeat = time.time()
        asked = answer.get("next_in")
        is_number = isinstance(asked, int | float) and not isinstance(asked, bool)
        seconds = min(max(float(asked), 1.0), SLOWEST) if is_number and asked is not None else BEAT
        # Devices that were cut off together do not come back together.
        self._beat_at = self._clock() + seconds * random.uniform(0.9, 1.0)
        datasets = answer.get("datasets")
        if isinstance(datasets, list):
            self._learn([item for item in datasets if isinstance(item, dict)])

    def _send(self, datasets: list[str]) -> bool:
        """Send for a while; whether more may wait."""
        # Not at the top: a daemon that has nothing to send does without numpy's memory.
        from splitfrozen_edge.pushing.upload import SetAsideError, Uploaded, settle_one

        until = self._clock() + TURN
        for dataset in datasets:
            while (entry := self._outbox.next(dataset)) is not None:
                if self._stop.is_set() or self._gate.blocks(UPLOAD):
                    return False
                if self._clock() >= until:
                    return True
                totals = Uploaded()
                try:
                    settle_one(self._client, self._outbox, entry, totals)
                except SetAsideError as error:
                    self._say(f"{error.message} [{error.code}]")
                    if error.bundle is not None:
                        self._recompute(dataset)
                    continue  # what another bundle computed may be taken
                if totals.damaged:
                    self._say(f"{totals.damaged} examples were unreadable on the disk: read again")
                    self._recompute(dataset)
                    continue
                self._reached()
                self.contact.last_upload, self.contact.disk = time.time(), ""
        return False

    def _hold_back(self, error: sqlite3.Error | OSError) -> float:
        """A disk that is full or fails: what cannot be noted as sent is rarely sent again."""
        if isinstance(error, sqlite3.Error) and is_damage(error):
            raise error  # it is repaired at the next start
        words = describe_database(error) if isinstance(error, sqlite3.Error) else str(error)
        if words != self.contact.disk:
            self._say(words)
        self.contact.disk = words
        self._away_until = self._clock() + REFUSED
        return REFUSED

    def _reached(self) -> None:
        if self.contact.reachable is not True:
            if self.contact.reachable is False:
                self._say("the server answers again")
            self.contact.reachable, self.contact.message = True, ""
            self.contact.since = time.time()
        self._failures = 0

    def _stand_back(self, error: RefusedError) -> float:
        """Wait, longer each time; a final refusal is asked again rarely: tokens are renewed."""
        self._failures += 1
        contact = self.contact
        message = f"{error.message} [{error.code}]"
        if contact.reachable is not False or contact.message != message:
            self._say(message)
        if contact.reachable is not False:
            contact.reachable, contact.since = False, time.time()
        contact.message = message
        if error.retryable:
            asked = error.retry_after if isinstance(error, GaveUpError) else None
            longest = min(LONGEST, 2.0 ** min(self._failures, 20))
            delay = random.uniform(longest / 2, longest)
            delay = max(delay, min(asked, SLOWEST)) if asked is not None else delay
        else:
            delay = random.uniform(REFUSED / 2, REFUSED)
        self._away_until = self._clock() + delay
        return delay
