"""Milliseconds, CPU-seconds and tokens per second of batches of a few shapes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SHAPES = ((1, 16), (1, 128), (8, 128))  # (examples, tokens of each)
_RUNS = 3  # at least, unless a single one takes longer than all may


@dataclass(frozen=True)
class Speed:
    """What one batch takes: the median of its runs, and their mean CPU time."""

    examples: int
    tokens: int  # of each example
    runs: int
    milliseconds: float
    cpu_seconds: float
    tokens_per_second: float


def fit_shapes(longest: int, shapes: Sequence[tuple[int, int]] = SHAPES) -> list[tuple[int, int]]:
    """The shapes, none longer than a bundle takes; each once. Pure."""
    return list(dict.fromkeys((examples, min(tokens, longest)) for examples, tokens in shapes))


def measure_speed(
    examples: int,
    tokens: int,
    run: Callable[[], object],
    seconds: float,
    *,
    wall: Callable[[], float] = time.perf_counter,
    cpu: Callable[[], float] = time.process_time,
) -> Speed:
    """Repeat `run` for about `seconds`; the first run is not counted."""
    end = wall() + seconds
    run()
    times: list[float] = []
    cpu_started = cpu()
    while not times or wall() < end or (len(times) < _RUNS and wall() < end + seconds):
        started = wall()
        run()
        times.append(wall() - started)
    spent = (cpu() - cpu_started) / len(times)
    middle = statistics.median(times)
    return Speed(
        examples,
        tokens,
        len(times),
        round(middle * 1000, 4),
        round(spent, 5),
        round(examples * tokens / middle, 1),
    )
