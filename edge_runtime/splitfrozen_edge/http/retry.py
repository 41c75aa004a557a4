"""When and how long to wait before the same bytes are sent again. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from random import random

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 507})


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with full jitter."""

    base: float = 0.5  # seconds; the first wait is up to this
    cap: float = 60.0  # seconds; no wait of its own is longer
    patience: float = 300.0  # seconds; after so much waiting the request has failed
    draw: Callable[[], float] = random  # uniform in [0, 1)

    def delay(self, attempt: int, retry_after: float | None = None) -> float:
        """Seconds before the next attempt; `attempt` counts failures from 1.

        Full jitter: many devices that lost the same server do not come back at once. A server's
        Retry-After is a lower bound, jittered upwards.
        """
        own = self.draw() * min(self.cap, self.base * 2.0 ** min(attempt - 1, 30))
        return own if retry_after is None else retry_after + min(own, retry_after)


def parse_retry_after(value: str | None, now: str | None = None) -> float | None:
    """Seconds of a Retry-After header, a number or an HTTP date; None if it is absent or neither.

    `now`: the answer's own Date header. A date is counted from it, because the clock of a small
    device may be years off; without it, from the device's clock.
    """
    try:
        seconds = float(value or "")
    except ValueError:
        seconds = _until(value or "", now)
    return seconds if 0 <= seconds < 1e9 else None


def _until(value: str, now: str | None) -> float:
    """Seconds from `now` to an HTTP date, 0 if it is past; NaN if it is no date."""
    try:
        then = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, OSError):
        return math.nan
    try:
        start = parsedate_to_datetime(now or "").timestamp()
    except (ValueError, OverflowError, OSError):
        start = time.time()
    return max(0.0, then - start)
