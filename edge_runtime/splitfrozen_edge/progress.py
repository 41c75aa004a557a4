"""Progress of a push: one line on standard error, redrawn in place. Silent without a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

_EVERY = 0.2  # seconds between two drawings
ERASE = "\r\x1b[K"  # to the start of the line, then clear it


class Progress(Protocol):
    """Told by the stages of a push, from any thread."""

    def computed(self, examples: int) -> None: ...

    def uploaded(self, examples: int) -> None: ...


class Silent:
    """Shows nothing."""

    def computed(self, examples: int) -> None:
        """Ignore."""

    def uploaded(self, examples: int) -> None:
        """Ignore."""


class Line:
    """Counts and draws. The time left is that of the slower of the two counts."""

    def __init__(
        self,
        to_compute: int,
        to_upload: int,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._counts = {"computed": [0, to_compute], "uploaded": [0, to_upload]}
        self._started = clock()
        self._drawn = -_EVERY
        self._lock = threading.Lock()

    def computed(self, examples: int) -> None:
        """Add to the first count."""
        self._add("computed", examples)

    def uploaded(self, examples: int) -> None:
        """Add to the second count."""
        self._add("uploaded", examples)

    def close(self) -> None:
        """Draw the last state and leave it on the screen."""
        with self._lock:
            self._draw()
            self._stream.write("\n")
            self._stream.flush()

    def _add(self, name: str, examples: int) -> None:
        with self._lock:
            self._counts[name][0] += examples
            if self._clock() - self._drawn >= _EVERY:
                self._draw()

    def _draw(self) -> None:
        self._drawn = self._clock()
        parts = [f"{name} {done}/{total}" for name, (done, total) in self._counts.items()]
        left = seconds_left(list(self._counts.values()), self._drawn - self._started)
        if left is not None:
            parts.append(f"{show_seconds(left)} left")
        self._stream.write(ERASE + "   ".join(parts))
        self._stream.flush()


def seconds_left(counts: list[list[int]], elapsed: float) -> float | None:
    """What the slower of [done, total] still takes at its pace so far; None if nobody knows."""
    left = [elapsed * (total - done) / done for done, total in counts if total and done]
    unknown = any(total and not done for done, total in counts)
    return None if unknown or not left or max(left) <= 0 else max(left)


def show_seconds(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    whole = round(seconds)
    minutes = f"{whole // 60 % 60}:{whole % 60:02}"
    return minutes if whole < 3600 else f"{whole // 3600}:{minutes.zfill(5)}"


@contextmanager
def show_progress(*, to_compute: int, to_upload: int, quiet: bool = False) -> Iterator[Progress]:
    """Examples computed and examples confirmed; nothing without a terminal."""
    if quiet or not sys.stderr.isatty():
        yield Silent()
        return
    line = Line(to_compute, to_upload, sys.stderr)
    try:
        yield line
    finally:
        line.close()
