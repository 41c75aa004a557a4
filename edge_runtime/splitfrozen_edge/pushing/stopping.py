"""How the stages of a push end together."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
TICK = 0.1  # seconds; how soon a waiting stage notices that another one stopped


class Stopped(Exception):
    """Another stage failed or the user interrupted; not an error of its own."""


@dataclass(frozen=True)
class Stop:
    """The event that ends all stages."""

    event: threading.Event

    def check(self) -> None:
        """Raise Stopped if it is set."""
        if self.event.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Sleep, less if it is set meanwhile; then check."""
        self.event.wait(seconds)
        self.check()

    def put(self, target: queue.Queue[T], item: T) -> None:
        """Put into a bounded queue as soon as there is room."""
        while True:
            self.check()
            try:
                return target.put(item, timeout=TICK)
            except queue.Full:
                continue
