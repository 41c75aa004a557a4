"""Who may compute: training steps and inference requests take turns, waiting requests first.

A plain lock would starve requests: the training loop takes it again before they wake up.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A mutual exclusion in which `request` goes before `step`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._requests = 0

    @property
    def requests_waiting(self) -> int:
        with self._changed:
            return self._requests

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold the turn for one inference request."""
        with self._changed:
            self._requests += 1
            try:
                self._changed.wait_for(lambda: not self._busy)
                self._busy = True
            finally:
                self._requests -= 1
        yield from self._release_after()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Hold the turn for one training step, once no request waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and self._requests == 0)
            self._busy = True
        yield from self._release_after()

    def _release_after(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
