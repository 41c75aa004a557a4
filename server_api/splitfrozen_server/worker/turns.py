"""Who may compute: training steps and inference requests alternate while both wait.

A plain lock would starve requests: the training loop takes it again before they wake up. Requests
that always go first would starve training: with a few devices asking, one is always waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A mutual exclusion: a waiting `request` goes before a second `step`, and v.v."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._requests = 0  # waiting
        self._steps = 0  # waiting
        self._requested = False  # the last turn was a request's

    @property
    def requests_waiting(self) -> int:
        with self._changed:
            return self._requests

    @property
    def steps_waiting(self) -> int:
        with self._changed:
            return self._steps

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold the turn for one inference request, once no step is owed its turn."""
        with self._changed:
            self._requests += 1
            try:
                self._changed.wait_for(
                    lambda: not self._busy and not (self._requested and self._steps)
                )
                self._busy = self._requested = True
            finally:
                self._requests -= 1
        yield from self._release_after()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Hold the turn for one training step, once no request is owed its turn."""
        with self._changed:
            self._steps += 1
            try:
                self._changed.wait_for(
                    lambda: not self._busy and (self._requested or not self._requests)
                )
                self._busy, self._requested = True, False
            finally:
                self._steps -= 1
        yield from self._release_after()

    def _release_after(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
