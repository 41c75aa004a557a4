"""The daemon: one thread follows files and computes, one speaks to the server, one looks on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from splitfrozen_edge.daemon.courier import Courier
from splitfrozen_edge.daemon.follower import Follower
from splitfrozen_edge.daemon.joined import Joined, joined_document
from splitfrozen_edge.daemon.notify import Notifier
from splitfrozen_edge.daemon.nowfile import NowFile
from splitfrozen_edge.daemon.opening import Opening
from splitfrozen_edge.daemon.report import (
    contact_document,
    follower_document,
    heartbeat,
    reasons,
    summary,
)
from splitfrozen_edge.daemon.settings import Settings
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.outbox.room import OUTBOX_BYTES
from splitfrozen_edge.outbox.salvage import repaired_path
from splitfrozen_edge.outbox.store import Outbox
from splitfrozen_edge.policy.gate import PolicyGate
from splitfrozen_edge.policy.rate import TokenBucket
from splitfrozen_edge.policy.rules import COMPUTE, UPLOAD
from splitfrozen_edge.pushing.stopping import Stopped
from splitfrozen_edge.state import StateDirectory, StateError
from splitfrozen_edge.watching.ledger import Ledger

SOON, SELDOM = 2.0, 30.0  # seconds between looks at files that change, and that rest
RAREST, LOOKING = 300.0, 0.002  # seconds at most; share of a core for looking at rest
LOOK_ON = 2.0  # seconds between looks of the main thread: how late `status` may be
STUCK = 6 * 3600.0  # seconds without a sign of life; then systemd's watchdog may restart us
ROOM = 64 * 1024 * 1024  # bytes of the outbox that a batch of rows may need
GIVE_UP = 25.0  # seconds that a thread has to end


class Service:
    """For the holder of the state directory's lock."""

    def __init__(
        self,
        state: StateDirectory,
        outbox: Outbox,
        ledger: Ledger,
        client: Client,
        gate: PolicyGate,
        *,
        stop: threading.Event,
        halt: threading.Event,
        settings: Settings,
        outbox_bytes: int = OUTBOX_BYTES,
        notifier: Notifier | None = None,
        say: Callable[[str], None] = lambda message: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stop` ends everything; `reload` takes the settings afresh, as a change of them does.

        `halt` is what the gate and pushes watch: a push that fails sets and clears it by itself.
        Raises StateError if the settings are wrong at the start; later they are only told of.
        """
        self.gate = gate
        gate.on_tick = self._beat
        self.reload = threading.Event()
        self._state = state
        self._outbox = outbox
        self._ledger = ledger
        self._client = client
        self._stop = stop
        self._halt = halt
        self._settings = settings
        self._outbox_bytes = outbox_bytes
        self._room = min(ROOM, outbox_bytes // 2)
        self._opening = Opening(state, outbox, ledger, client, gate, halt, say)
        self._signature: object = settings.signature()
        self._notifier = notifier or Notifier(None)
        self._say = say
        self._clock = clock
        self._wake = threading.Event()  # the courier has something to send
        self._followers: list[Follower] = []
        self._look_every = SOON
        self._alive_at = clock()
        self._started_at = time.time()
        self._error: BaseException | None = None
        self._now = NowFile(state.path, clock)
        self.courier = Courier(
            client,
            outbox,
            gate,
            stop,
            describe=self.describe,
            learn=self._learn,
            recompute=self._recompute,
            say=say,
            clock=clock,
        )
        self._read_what_was_lost()
        self._take_settings()

    def run(self) -> None:
        """Work until `stop`; raises what a thread died of."""
        threads = [
            threading.Thread(target=self._guard, args=(loop,), daemon=True, name=name)
            for name, loop in (("tend", self._tend_all), ("courier", self._courier_loop))
        ]
        for thread in threads:
            thread.start()
        self._notifier.ready()
        self.gate.reasons()  # so that the first words of `status` know the quiet hours
        self.look_on()
        every = min(LOOK_ON, self._notifier.ping_every or LOOK_ON)
        while not self._stop.wait(every):
            self.look_on()
        self._notifier.stopping()
        self._wake.set()
        self.reload.set()
        until = time.monotonic() + GIVE_UP
        # One that hangs in the network is left: the outbox is safe.
        while any(thread.is_alive() for thread in threads) and time.monotonic() < until:
            self._halt.set()
            for thread in threads:
                thread.join(0.1)
        self._now.show(self.document() | {"ended_at": time.time()}, at_once=True)
        if self._error is not None:
            raise self._error

    def look_on(self) -> None:
        """Tell systemd and `status` how it goes."""
        document = self.document()
        self._now.show(document)
        self._notifier.status(summary(document))
        if self._clock() - self._alive_at < STUCK:
            self._notifier.ping()

    def tend(self) -> float:
        """Look at all files once, compute what is new; seconds until the next look is of use."""
        self._look_for_settings()
        began, done = time.thread_time(), False
        for follower in self._followers:
            self._beat()
            if not self._stop.is_set() and follower.step():
                done = True
                self._wake.set()
            follower.rest()
        # Files that rest are looked at less often: an idle device should sleep.
        self._look_every = SOON if done else min(SELDOM, self._look_every * 1.5)
        if any(item.now.waiting and not item.is_held for item in self._followers):
            return SOON
        # Ten thousand files that rest take 0.2 CPU-seconds a look: keep it a small share.
        dear = 0.0 if done else min(RAREST, (time.thread_time() - began) / LOOKING)
        return max(self._look_every, dear)

    def describe(self) -> dict[str, Any]:
        """The heartbeat."""
        return heartbeat(self._outbox.waiting(), self._followers, self.gate.last_reasons)

    def document(self) -> dict[str, Any]:
        """What `status` shows of the daemon."""
        return {
            "started_at": self._started_at,
            "updated_at": time.time(),
            **contact_document(self.courier.contact),
            "reasons": self._reasons(),
            "warnings": list(self.gate.warnings),
            "datasets": [follower_document(follower) for follower in self._followers],
        }

    def _reasons(self) -> list[dict[str, Any]]:
        return reasons(self.gate.last_reasons, self._followers, self.courier.contact)

    def _look_for_settings(self) -> None:
        signature = self._settings.signature()
        if signature == self._signature and not self.reload.is_set():
            return
        self._signature = signature
        self.reload.clear()
        try:
            self._take_settings()
        except StateError as error:
            self._say(f"the settings stay as they were: {error}")
        else:
            self._say("took the settings afresh")

    def _read_what_was_lost(self) -> None:
        """A repair of the outbox may have lost shards whose rows the ledger counts as read."""
        mark = repaired_path(self._outbox.path)
        if mark.exists():
            self._ledger.rewind()
            mark.unlink(missing_ok=True)

    def _take_settings(self) -> None:
        joined, policy = self._settings.load()
        kept = {_key(follower.joined): follower for follower in self._followers}
        self._followers = [kept.get(_key(item)) or self._follow(item) for item in joined]
        self.gate.take(policy)
        rate = policy.max_rate
        self._client.throttle = TokenBucket(rate, self._pause).take if rate else None
        self._look_every = SOON

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _follow(self, item: Joined) -> Follower:
        return Follower(
            item,
            self._ledger,
            self._opening.find,
            self._opening.open_sink,
            clock=self._clock,
            bundle_of=self._outbox.dataset_bundle,
            may_compute=lambda: not self.gate.blocks(COMPUTE),
            has_room=lambda: self._outbox.has_room(self._room, self._outbox_bytes),
            may_ask=lambda: all(r.code != "metered" for r in self.gate.blocks(UPLOAD)),
            is_taken=lambda dataset: any(
                (other.now.id, other.joined.path) == (dataset, item.path) and other.is_reading
                for other in self._followers
                if other.joined is not item
            ),
            beat=self._beat,
            say=self._say,
        )

    def _learn(self, datasets: list[Mapping[str, Any]]) -> None:
        for dataset in datasets:
            for follower in self._followers:
                wanted = (follower.now.id, follower.joined.dataset)
                if dataset.get("id") in wanted or (
                    not follower.now.id and dataset.get("name") in wanted
                ):
                    follower.learn(dataset)
                    if not dataset.get("deleted"):
                        self._ledger.remember(follower.joined.dataset, dataset)

    def _recompute(self, dataset: str) -> None:
        for follower in self._followers:
            if follower.now.id == dataset:
                follower.read_again()

    def _beat(self) -> None:
        self._alive_at = self._clock()

    def _tend_all(self) -> None:
        while not self._stop.is_set():
            delay = self.tend()
            if not self._stop.is_set():
                self.reload.wait(delay)

    def _courier_loop(self) -> None:
        while not self._stop.is_set():
            delay = self.courier.step()
            if delay > 0:
                self._wake.wait(delay)
            self._wake.clear()

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Stopped:
            pass
        except BaseException as error:
            self._error = self._error or error
        self._stop.set()


def _key(item: Joined) -> str:
    """Equal for what is followed alike."""
    return json.dumps(joined_document(item), sort_keys=True)
