"""Which example is trained on in which step: a pure function of (seed, admission log).

Training goes in passes. At a pass boundary, and only there, the job takes in what has arrived and
learns whether the dataset is sealed; that decision is one `Boundary` of the admission log. The
rules, which make every example's number of visits exactly `epochs`:

- before the seal an example may use at most floor(epochs / 2) of its visits, and only full
  batches are trained: what arrived first must not be forgotten, nor trained on in crumbs;
- after the seal there are as many passes as the newest examples have visits left. Examples with
  fewer left spread theirs evenly over all of these passes, each from a random offset of its own
  (systematic sampling), so every pass mixes early and late arrivals. Passes that latecomers made
  up alone would undo what was learnt from the others.

A dataset sealed before the start is thereby `epochs` passes over everything: centralised training.
Knows lengths and indices only: no files, no tensors, no HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

BUCKET_BATCHES = 50  # sort by length inside windows of at most so many batches
_OFFSETS = 1 << 63  # streams of offsets, apart from those of the passes


@dataclass(frozen=True)
class Boundary:
    """One entry of the admission log: the pass that starts at `step` uses shards <= `sequence`."""

    step: int
    sequence: int
    sealed: bool


@dataclass(frozen=True)
class PlannedStep:
    """The examples of one optimizer step, by admission index, and where in the job it stands."""

    examples: Indices
    epoch: float  # visits made before this step, per example admitted so far
    progress: float  # share of the visits after the seal that are made; 0 before the seal


class _Closing:
    """The passes after the seal: who takes part in which.

    Of R passes, an example with r visits left takes part in pass q when the line
    (q * r + offset) / R crosses a whole number there; the crossings of one example add up to r.
    """

    def __init__(
        self, first: int, made: int, left: NDArray[np.int32], offsets: NDArray[np.uint64]
    ) -> None:
        """`first` is the number of the first of these passes, `made` the visits before it.

        `offsets` are any random integers, one an example.
        """
        self.first = first
        self.made = made
        self.left = left.astype(np.int64)
        self.count = int(self.left.max(initial=0))
        self.offsets = (offsets % np.uint64(max(1, self.count))).astype(np.int64)

    def examples_of(self, number: int) -> Indices:
        """The examples of pass `number`; at least one while `passes_from(number)` has any."""
        index = number - self.first
        if index >= self.count:
            return np.empty(0, np.int64)
        before = (index * self.left + self.offsets) // self.count
        after = ((index + 1) * self.left + self.offsets) // self.count
        return np.flatnonzero(after > before)

    def share(self, made: int) -> float:
        """How much of these passes is done when the job has made `made` visits, 0..1."""
        return (made - self.made) / int(self.left.sum())

    def passes_from(self, number: int) -> Iterator[Indices]:
        """The passes from `number` on to the last."""
        for later in range(number, self.first + self.count):
            yield self.examples_of(later)


class Schedule:
    """Plans one pass after the other; the same calls in the same order give the same plan."""

    def __init__(self, *, seed: int, epochs: int, batch_size: int) -> None:
        self.seed = seed
        self.epochs = epochs
        self.batch_size = batch_size
        self.sealed = False
        self.passes = 0
        self.lengths: NDArray[np.int32] = np.empty(0, np.int32)
        self.visits: NDArray[np.int32] = np.empty(0, np.int32)
        self.closing: _Closing | None = None  # the passes after the seal

    @property
    def examples(self) -> int:
        return len(self.lengths)

    @property
    def finished(self) -> bool:
        return self.sealed and bool((self.visits == self.epochs).all())

    def has_work(self, *, new_examples: int, sealed: bool) -> bool:
        """Whether a pass that starts now with `new_examples` more would hold any step."""
        if sealed:
            return new_examples > 0 or bool((self.visits < self.epochs).any())
        allowed = self.epochs // 2
        eligible = int((self.visits < allowed).sum()) + (new_examples if allowed else 0)
        return eligible >= self.batch_size

    def begin_pass(self, new_lengths: Iterable[int], *, sealed: bool) -> list[PlannedStep]:
        """Admit examples of these token lengths, plan the next pass and count it as made."""
        known = self.examples
        self._admit(np.fromiter(new_lengths, np.int32))
        self.sealed = self.sealed or sealed
        if self.sealed and (self.closing is None or self.examples > known):
            offsets = _random_stream(self.seed, _OFFSETS + self.passes).random_raw(self.examples)
            made = int(self.visits.sum())
            self.closing = _Closing(self.passes, made, self.epochs - self.visits, offsets)
        stream = _random_stream(self.seed, self.passes)
        eligible = self._eligible()
        order = eligible[np.argsort(stream.random_raw(len(eligible)), kind="stable")]
        if not self.sealed:
            order = order[: len(order) // self.batch_size * self.batch_size]
        batches = _bucketed(order, self.lengths, self.batch_size)
        turns = np.argsort(stream.random_raw(len(batches)), kind="stable")
        steps = self._place([batches[turn] for turn in turns])
        self.visits[order] += 1
        self.passes += 1
        return steps

    def remaining_steps(self) -> int | None:
        """Steps of the passes still to come; None before the seal, when nobody can know."""
        if self.closing is None:
            return None
        sizes = (len(examples) for examples in self.closing.passes_from(self.passes))
        return sum(-(-size // self.batch_size) for size in sizes)

    def _admit(self, lengths: NDArray[np.int32]) -> None:
        self.lengths = np.concatenate([self.lengths, lengths])
        self.visits = np.concatenate([self.visits, np.zeros(len(lengths), np.int32)])

    def _eligible(self) -> Indices:
        if self.closing is None:
            return np.flatnonzero(self.visits < self.epochs // 2)
        return self.closing.examples_of(self.passes)

    def _place(self, batches: Sequence[Indices]) -> list[PlannedStep]:
        made = int(self.visits.sum())
        steps = []
        for batch in batches:
            progress = 0.0 if self.closing is None else self.closing.share(made)
            steps.append(PlannedStep(batch, made / self.examples, progress))
            made += len(batch)
        return steps


def sealed_batches(
    lengths: Sequence[int], *, seed: int, epochs: int, batch_size: int
) -> list[Indices]:
    """The batches of a job whose dataset was sealed before it started, in order.

    `lengths` are the token counts of all examples in admission order; a batch holds indices into
    them. For baselines and tests that must see the same data in the same order.
    """
    schedule = Schedule(seed=seed, epochs=epochs, batch_size=batch_size)
    steps = schedule.begin_pass(lengths, sealed=True)
    while not schedule.finished:
        steps += schedule.begin_pass([], sealed=True)
    return [step.examples for step in steps]


def _random_stream(seed: int, index: int) -> np.random.Philox:
    # Raw Philox output is frozen by NumPy's policy; Generator.permutation is not.
    return np.random.Philox(key=np.array([seed, index], np.uint64))


def _bucketed(order: Indices, lengths: NDArray[np.int32], batch_size: int) -> list[Indices]:
    """Cut `order` into batches of similar length; only the last may be short.

    Sorts inside windows, not everywhere: batches of equal length in every pass would always hold
    the same neighbours.
    """
    window = batch_size * min(BUCKET_BATCHES, max(1, len(order) // (4 * batch_size)))
    batches: list[Indices] = []
    for start in range(0, len(order), window):
        chunk = order[start : start + window]
        chunk = chunk[np.argsort(-lengths[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    return batches
