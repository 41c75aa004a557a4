"""How many threads a bundle runs on: measured once on this device, then remembered.

Two small cores may be faster with one thread, four large ones with four; no rule knows. The
measurement is a few runs of one short batch and never takes much more than `BUDGET` seconds.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitfrozen_edge.model.cores import MOST

BUDGET = 2.0  # seconds, checked before every run
CANDIDATES = (4, 2, 1)  # the most first: a slow device has measured its likeliest then
_RUNS = 3  # the fastest counts: others were disturbed
_WORTH = 0.9  # more threads must save a tenth of the time, or they only cost energy
_REMEMBERED = 8  # bundles
_STRIDE = 7919  # a prime: the ids look up the whole embedding table

Run = Callable[[], object]  # one batch
Prepare = Callable[[int], Run]  # threads -> a batch that runs on as many


def candidates(cores: int) -> tuple[int, ...]:
    """The numbers of threads worth trying on so many cores, the most first. Pure."""
    limit = min(MOST, cores)
    return tuple(sorted({limit, *(count for count in CANDIDATES if count < limit)}, reverse=True))


def measure(
    prepare: Prepare,
    counts: tuple[int, ...],
    *,
    budget: float = BUDGET,
    stop: threading.Event | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Threads -> seconds of a batch. What there was no time for is missing."""
    end = clock() + budget
    found: dict[int, float] = {}
    for count in counts:
        if clock() >= end or (stop is not None and stop.is_set()):
            break
        run = prepare(count)
        run()  # the first one allocates
        for _ in range(_RUNS):
            if clock() >= end or (stop is not None and stop.is_set()):
                break
            started = clock()
            run()
            found[count] = min(found.get(count, float("inf")), clock() - started)
    return found


def fewest(seconds: dict[int, float]) -> int:
    """The fewest threads from which more would not save a tenth of the time. Pure."""
    best = min(seconds)
    for count in sorted(seconds):
        if seconds[count] < _WORTH * seconds[best]:
            best = count
    return best


class ThreadChoices:
    """What was measured, in one small file. A file that cannot be read is measured anew."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> int | None:
        """The choice for a key, or None."""
        found = self._read().get(key)
        threads = found.get("threads") if isinstance(found, dict) else None
        return threads if type(threads) is int and 1 <= threads <= MOST else None

    def put(self, key: str, threads: int, seconds: dict[int, float]) -> None:
        """Remember a choice and its reason; a disk that cannot be written is no error here."""
        known = self._read()
        known.pop(key, None)  # to the end: the oldest go first
        times = {str(count): round(value * 1000, 3) for count, value in sorted(seconds.items())}
        known[key] = {"threads": threads, "milliseconds": times}
        kept = dict(list(known.items())[-_REMEMBERED:])
        part = self._path.with_name(self._path.name + ".part")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
            part.replace(self._path)
        except OSError:
            return  # measured again next time

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}


def typical_ids(vocabulary: int, tokens: int, batch: int = 1) -> NDArray[np.int64]:
    """Token ids [batch, tokens] from all over the vocabulary: what they say does not matter."""
    # Not numpy.random: importing that takes 7 MB of memory.
    places = np.arange(1, batch * tokens + 1, dtype=np.int64)
    return (places * _STRIDE % vocabulary).reshape(batch, tokens)
