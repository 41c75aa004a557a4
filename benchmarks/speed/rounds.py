"""Interleaved rounds, and what they say: medians, ratios, errors, shifts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.speed.crew import ContenderError, Member

_TARGET_SECONDS = 0.15  # a timed piece: long enough for the clock, short enough to interleave
_MOST_RUNS = 20


@dataclass(frozen=True)
class Row:
    """What is known about one contender."""

    name: str
    tokens_per_second: dict[str, float]  # shape -> from the median wall time
    cpu_seconds_per_1000: dict[str, float]  # shape -> median CPU seconds for 1,000 tokens
    least_cpu_seconds_per_1000: dict[str, float]
    peak_private_mb: float
    private_mb: float
    file_mb: float
    relative_error: float | None  # to torch in fp32; None when torch did not run
    batch_shift: float  # largest difference of one row alone and beside others

    @property
    def invariant(self) -> bool:
        """Whether a row alone is the same, to the bit, as beside others."""
        return self.batch_shift == 0.0


def play(
    members: list[Member], rounds: int, batches: Sequence[int], tell: Callable[[str], None]
) -> dict[str, str]:
    """Let every contender run in every round, the order turning by one each time.

    Samples go to `member.samples[batch]`. One that stops is taken out of `members`; returned is
    the reason for each.
    """
    lost: dict[str, str] = {}
    times = {m.name: {b: _repeats(m, b) for b in batches} for m in members}
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        for index in range(len(members)):
            member = members[(index + number) % len(members)]
            if member.name in lost:
                continue
            try:
                for batch in batches:
                    sample = member.run(batch, times[member.name][batch])
                    member.samples.setdefault(batch, []).append(sample)
            except ContenderError as error:
                lost[member.name] = str(error)
    members[:] = [member for member in members if member.name not in lost]
    return lost


def _repeats(member: Member, batch: int) -> int:
    seconds, _ = member.run(batch, 1)
    return max(1, min(_MOST_RUNS, round(_TARGET_SECONDS / max(seconds, 1e-6))))


def describe(members: Sequence[Member], tokens: int, reference: str, directory: Path) -> list[Row]:
    """One row for each contender; `reference` is the one that errors are measured against."""
    batches = sorted(members[0].samples)
    exact = next((m.hidden(max(batches), directory) for m in members if m.name == reference), None)
    rows = []
    for member in members:
        whole = member.hidden(max(batches), directory)
        alone = member.hidden(1, directory)
        error = None
        if exact is not None:
            error = float(np.linalg.norm(whole - exact) / np.linalg.norm(exact))
        cpu = {b: [sample[0] for sample in member.samples[b]] for b in batches}
        wall = {b: median(sample[1] for sample in member.samples[b]) for b in batches}
        names = {b: f"{b}x{tokens}" for b in batches}
        rows.append(
            Row(
                member.name,
                {names[b]: b * tokens / wall[b] for b in batches},
                {names[b]: median(cpu[b]) * 1000 / (b * tokens) for b in batches},
                {names[b]: min(cpu[b]) * 1000 / (b * tokens) for b in batches},
                member.peak_private / 1e6,
                member.private / 1e6,
                member.size / 1e6,
                error,
                float(np.abs(whole[:1] - alone).max()),
            )
        )
    return rows


def ratio(slow: Member, fast: Member, batch: int) -> float:
    """How many times as fast as `slow` `fast` is: the median over interleaved rounds."""
    pairs = zip(slow.samples[batch], fast.samples[batch], strict=True)
    return median(s[0] / f[0] for s, f in pairs)
