"""The visit order: exactly `epochs` visits, a pure function, mixed at the end."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from splitfrozen_server.worker.schedule import PlannedStep, Schedule, sealed_batches

LENGTHS = st.lists(st.integers(1, 40), min_size=0, max_size=30)
JOBS = st.tuples(st.integers(0, 2**63 - 1), st.integers(1, 5), st.integers(1, 8))


@dataclass
class Run:
    """A job in which one group of examples arrives at every boundary, then the seal."""

    schedule: Schedule
    steps: list[PlannedStep]
    steps_before_seal: int
    passes_after_seal: list[list[PlannedStep]]


def train(job: tuple[int, int, int], arrivals: list[list[int]]) -> Run:
    seed, epochs, batch_size = job
    schedule = Schedule(seed=seed, epochs=epochs, batch_size=batch_size)
    steps: list[PlannedStep] = []
    waiting: list[int] = []
    for group in arrivals:
        waiting += group
        if schedule.has_work(new_examples=len(waiting), sealed=False):
            steps += schedule.begin_pass(waiting, sealed=False)
            waiting = []
    before = len(steps)
    passes = []
    while schedule.has_work(new_examples=len(waiting), sealed=True):
        passes.append(schedule.begin_pass(waiting, sealed=True))
        waiting = []
    return Run(schedule, steps + [step for one in passes for step in one], before, passes)


def visits(steps: list[PlannedStep], examples: int) -> list[int]:
    counts = np.zeros(examples, int)
    for step in steps:
        np.add.at(counts, step.examples, 1)
    return counts.tolist()


@given(JOBS, st.lists(LENGTHS, max_size=8))
def test_every_example_is_visited_exactly_epochs_times(job, arrivals):
    run = train(job, arrivals)
    assert visits(run.steps, run.schedule.examples) == [job[1]] * sum(map(len, arrivals))
    assert run.schedule.finished or run.schedule.examples == 0


@given(JOBS, st.lists(LENGTHS, max_size=8))
def test_the_order_is_a_function_of_seed_and_log(job, arrivals):
    first, again = train(job, arrivals), train(job, arrivals)
    assert [step.examples.tolist() for step in first.steps] == [
        step.examples.tolist() for step in again.steps
    ]


@given(JOBS, st.lists(LENGTHS, max_size=8))
def test_before_the_seal_at_most_half_the_visits_are_made_in_full_batches(job, arrivals):
    _, epochs, batch_size = job
    run = train(job, arrivals)
    early = run.steps[: run.steps_before_seal]
    assert max(visits(early, run.schedule.examples), default=0) <= epochs // 2
    assert all(len(step.examples) == batch_size for step in early)


@given(JOBS, st.lists(LENGTHS, min_size=1, max_size=8))
def test_after_the_seal_every_example_spreads_its_visits_evenly(job, arrivals):
    run = train(job, arrivals)
    made = [visits(steps, run.schedule.examples) for steps in run.passes_after_seal]
    for one in zip(*made, strict=True):
        share = sum(one) / len(made)
        for first, end in combinations(range(len(made) + 1), 2):
            assert abs(sum(one[first:end]) - (end - first) * share) < 1


def test_latecomers_are_never_trained_alone():
    schedule = Schedule(seed=3, epochs=4, batch_size=32)
    schedule.begin_pass([5] * 600, sealed=False)
    schedule.begin_pass([], sealed=False)
    late = [schedule.begin_pass([5] * 400, sealed=True)]
    while not schedule.finished:
        late.append(schedule.begin_pass([], sealed=True))
    assert len(late) == 4
    for steps in late:
        members = np.concatenate([step.examples for step in steps])
        early = int((members < 600).sum())
        assert int((members >= 600).sum()) == 400
        assert 240 <= early <= 360  # 600 examples with 2 visits left, over 4 passes


@given(JOBS, LENGTHS, st.integers(0, 5))
def test_a_longer_log_begins_like_a_shorter_one(job, lengths, cut):
    whole = train(job, [lengths, lengths[:cut]])
    part = train(job, [lengths])
    early = part.steps[: part.steps_before_seal]
    assert [step.examples.tolist() for step in whole.steps[: len(early)]] == [
        step.examples.tolist() for step in early
    ]


@given(JOBS, LENGTHS)
def test_a_sealed_dataset_is_trained_in_whole_passes(job, lengths):
    seed, epochs, batch_size = job
    batches = sealed_batches(lengths or [1], seed=seed, epochs=epochs, batch_size=batch_size)
    count = len(lengths or [1])
    per_pass = -(-count // batch_size)
    assert len(batches) == epochs * per_pass
    for start in range(0, len(batches), per_pass):
        together = np.concatenate(batches[start : start + per_pass])
        assert sorted(together.tolist()) == list(range(count))


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_passes_differ_from_each_other(seed):
    lengths = [1 + i % 17 for i in range(200)]
    batches = sealed_batches(lengths, seed=seed, epochs=2, batch_size=8)
    first, second = batches[:25], batches[25:]
    assert [b.tolist() for b in first] != [b.tolist() for b in second]
    assert {frozenset(b.tolist()) for b in first} != {frozenset(b.tolist()) for b in second}


def test_batches_hold_examples_of_similar_length():
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    batches = sealed_batches(lengths.tolist(), seed=0, epochs=1, batch_size=16)
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert padded / lengths.sum() < 1.25


def test_the_order_is_frozen_across_versions():
    batches = sealed_batches([5, 3, 9, 1, 7], seed=7, epochs=2, batch_size=2)
    assert [batch.tolist() for batch in batches] == FROZEN


def test_remaining_steps_count_what_is_still_planned():
    schedule = Schedule(seed=0, epochs=3, batch_size=4)
    schedule.begin_pass([1] * 9, sealed=False)
    assert schedule.remaining_steps() is None
    schedule.begin_pass([1] * 2, sealed=True)
    left = schedule.remaining_steps()
    made = 0
    while not schedule.finished:
        made += len(schedule.begin_pass([], sealed=True))
    assert left == made


@given(JOBS, st.lists(LENGTHS, min_size=1, max_size=8))
def test_a_decay_begins_at_the_seal_and_ends_with_the_job(job, arrivals):
    run = train(job, arrivals)
    progress = [step.progress for step in run.steps]
    assert not any(progress[: run.steps_before_seal])
    after = progress[run.steps_before_seal :]
    assert after == sorted(after)
    assert not after or (after[0] == 0 and after[-1] < 1)


def test_with_one_epoch_nothing_is_trained_before_the_seal():
    schedule = Schedule(seed=0, epochs=1, batch_size=4)
    assert not schedule.has_work(new_examples=100, sealed=False)
    assert schedule.has_work(new_examples=1, sealed=True)


FROZEN = [[2, 3], [0], [4, 1], [2, 4], [1, 3], [0]]
