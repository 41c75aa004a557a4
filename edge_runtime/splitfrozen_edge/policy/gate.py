"""The policy at work: holds computing and uploading while a rule says so, and spreads both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from splitfrozen_edge.policy.rate import rest_after
from splitfrozen_edge.policy.readings import Readers
from splitfrozen_edge.policy.rules import COMPUTE, UPLOAD, Policy, Reason, Rules

REFRESH = 20.0  # seconds that readings are good for
_TICK = 2.0  # seconds; how soon a held stage looks again


class PolicyGate:
    """Asked by the stages of a push, each in its own thread; returns at once on a stop."""

    def __init__(
        self,
        policy: Policy,
        readers: Readers,
        stop: threading.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
        on_hold: Callable[[list[Reason]], object] = lambda reasons: None,
    ) -> None:
        """`cpu`: CPU-seconds of this process so far; `on_hold` hears why a stage begins to wait."""
        self.policy = policy
        self.warnings: list[str] = []
        self.on_tick: Callable[[], object] = lambda: None  # a sign of life, also while it holds
        self._rules = Rules(policy)
        self._readers = readers
        self._stop = stop
        self._clock = clock
        self._cpu = cpu
        self._on_hold = on_hold
        self._lock = threading.Lock()
        self._reasons: list[Reason] = []
        self._read_at: float | None = None
        self._last: tuple[float, float] | None = None  # clock and cpu when a batch was let go

    def take(self, policy: Policy) -> None:
        """Follow another policy from now on."""
        with self._lock:
            if policy == self.policy:
                return
            self.policy, self._rules = policy, Rules(policy)
            self._readers = self._readers.with_metered(policy.metered_interfaces)
            self._reasons, self.warnings, self._read_at = [], [], None

    def reasons(self, *, afresh: bool = False) -> list[Reason]:
        """Why anything waits; looks at the machine at most every `REFRESH` seconds."""
        with self._lock:
            if not self.policy.needs_readings:
                return []
            now = self._clock()
            if afresh or self._read_at is None or now - self._read_at >= REFRESH:
                policy = self.policy
                readings = self._readers.read(
                    metered=policy.only_unmetered,
                    power=policy.only_charging,
                    temperature=policy.pause_above_temp is not None,
                )
                self._reasons, self.warnings = self._rules.judge(readings)
                self._read_at = now
            return self._reasons

    @property
    def last_reasons(self) -> list[Reason]:
        """What was found last; looks at nothing."""
        return list(self._reasons)

    def blocks(self, stage: str) -> list[Reason]:
        """The reasons that hold a stage now."""
        return [reason for reason in self.reasons() if stage in reason.blocks]

    def before_batch(self) -> None:
        """Return when a batch may be computed; sleeps off the processor time of the last one."""
        self.on_tick()
        self._rest()
        self._hold(COMPUTE)
        self._last = (self._clock(), self._cpu())

    def before_upload(self, size: int) -> None:
        """Return when a body may be sent; the rate is kept where its bytes are written."""
        self._hold(UPLOAD)

    def _rest(self) -> None:
        share = self.policy.cpu_share
        if share >= 1 or self._last is None:
            return
        since, cpu = self._last
        spent = self._cpu() - cpu
        idle = (self._clock() - since) - spent
        delay = rest_after(spent, share) - max(0.0, idle)
        if delay > 0:
            self._stop.wait(delay)

    def _hold(self, stage: str) -> None:
        told = False
        while not self._stop.is_set() and (found := self.blocks(stage)):
            if not told:
                self._on_hold(found)
                told = True
            self.on_tick()
            self._stop.wait(_TICK)
