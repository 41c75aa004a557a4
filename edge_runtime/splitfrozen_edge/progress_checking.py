"""Progress of looking through a file's rows, before any is computed; quiet files that are quick."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from splitfrozen_edge.progress import ERASE

T = TypeVar("T")
_FIRST = 0.5  # seconds until the first word
_DRAWN, _TOLD = 0.2, 10.0  # seconds between two: on a terminal, in a log
_LOOK = 64  # rows between looks at the clock


class Checking:
    """Counts the rows of one pass at a time: redrawn on a terminal, else a line now and then."""

    def __init__(
        self,
        name: str,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name`: of the file, as it is shown."""
        self._name = name
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._drawn = self._stream.isatty()
        self._clock = clock
        self._next = clock() + _FIRST
        self._rows, self._total = 0, 0
        self._is_shown = False

    def of(self, total: int) -> Checking:
        """Another pass, over this many rows."""
        self._rows, self._total = 0, total
        return self

    def row(self) -> None:
        """One more."""
        self._rows += 1
        if not self._quiet and self._rows % _LOOK == 0 and self._clock() >= self._next:
            self._show()

    def _show(self) -> None:
        self._next = self._clock() + (_DRAWN if self._drawn else _TOLD)
        counted = f"{self._rows} of {self._total}" if self._total else f"{self._rows}"
        words = f"checking {self._name}: {counted} rows"
        self._stream.write(ERASE + words if self._drawn else words + "\n")
        self._stream.flush()
        self._is_shown = self._drawn

    def __enter__(self) -> Checking:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._is_shown:
            self._stream.write(ERASE)
            self._stream.flush()
            self._is_shown = False


def told(rows: Iterable[T], each: Callable[[], object]) -> Iterator[T]:
    """The same rows; `each` is called for every one."""
    for row in rows:
        each()
        yield row
