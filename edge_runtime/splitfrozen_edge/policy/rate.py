"""At most so many bytes a second, and at most such a share of a processor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST = 1.0  # seconds of the rate that may be sent at once after a rest


class TokenBucket:
    """Spreads bytes over time. Threads may share it."""

    def __init__(
        self,
        rate: float,
        wait: Callable[[float], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rate`: bytes/s; `wait` sleeps, and raises to end early."""
        self._rate = rate
        self._wait = wait
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock() - BURST  # when everything that was taken has been paid for

    def take(self, size: int) -> None:
        """Wait until `size` bytes may be sent. More than a burst is let through, then paid for."""
        with self._lock:
            now = self._clock()
            start = max(self._free_at, now - BURST)
            self._free_at = start + size / self._rate
            delay = self._free_at - now
        if delay > 0:
            self._wait(delay)


def rest_after(cpu_seconds: float, share: float) -> float:
    """Seconds to sleep after computing, so that `share` of a core is used on average."""
    return cpu_seconds * (1 / share - 1)
