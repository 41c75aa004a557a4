"""What a baseline reports, and the clock that counts a device's processor time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Outcome:
    """One baseline's result; accuracies are shares of the held-out examples."""

    method: str
    before: float
    after: float
    history: list[float]  # after every epoch or round
    cpu_seconds: list[float]  # per device, imports and loading not counted
    bytes_up: list[int]  # per device, over all rounds
    bytes_down: list[int]
    steps: int
    wall_seconds: float
    weights_sha256: str  # of what was trained: same seed and data, same digest


@dataclass
class CpuClock:
    """Processor time of this process, all threads, while `counting`."""

    seconds: float = field(default=0.0)

    @contextmanager
    def counting(self) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - start


def no_progress(_done: int, _total: int) -> None:
    """For callers that show none."""
