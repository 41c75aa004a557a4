"""Choosing a token: exact chances, pure in (seed, position, logits)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from splitfrozen.errors import RefusedError
from splitfrozen_server.worker.sampling import Sampling, choose, draw, nucleus, uniform

LOGITS = arrays.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32, allow_nan=False)
)
SEEDS = st.integers(0, 2**53 - 1)
POSITIONS = st.integers(1, 2**20)
TOP_P = st.floats(0.001, 1.0)


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    shifted = (logits.astype(np.float64) - float(logits.max())) / temperature
    return np.exp(shifted) / np.exp(shifted).sum()


@given(logits=LOGITS, seed=SEEDS, position=POSITIONS, top_p=TOP_P)
def test_the_same_question_has_the_same_answer(
    logits: np.ndarray, seed: int, position: int, top_p: float
) -> None:
    sampling = Sampling(temperature=0.7, top_p=top_p, seed=seed, logprobs=3)
    assert choose(logits, sampling, position) == choose(logits.copy(), sampling, position)


@given(logits=LOGITS, seed=SEEDS, position=POSITIONS, top_p=TOP_P)
def test_temperature_zero_takes_the_first_of_the_most_likely(
    logits: np.ndarray, seed: int, position: int, top_p: float
) -> None:
    sampling = Sampling(temperature=0, top_p=top_p, seed=seed)
    assert choose(logits, sampling, position).token == int(np.argmax(logits))


@given(logits=LOGITS, top_p=TOP_P)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(
    logits: np.ndarray, top_p: float
) -> None:
    chances = softmax(logits, 1.0)
    kept = nucleus(chances, top_p)
    inside = np.flatnonzero(kept)
    assert (kept[inside] == chances[inside]).all() and len(inside) >= 1
    if top_p < 1:
        least = chances[inside].min()
        assert chances[kept == 0].max(initial=0) <= least  # none is left out before a lesser one
        assert chances[inside].sum() >= top_p - 1e-9
        assert chances[inside].sum() - least < top_p + 1e-9


@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_the_nucleus_of_a_large_vocabulary_is_that_of_a_full_sort(spread: float) -> None:
    random = np.random.default_rng(1)
    logits = np.round(random.standard_normal(50_000) * spread, 2)  # many are equally likely
    chances = softmax(logits, 1.0)
    order = np.argsort(-chances, kind="stable")
    reached = np.cumsum(chances[order])
    for top_p in (0.001, 0.3, 0.9, 0.999999):
        expected = order[: int(np.searchsorted(reached, top_p)) + 1]
        assert np.flatnonzero(nucleus(chances, top_p)).tolist() == sorted(expected.tolist())


@given(logits=LOGITS, seed=SEEDS, position=POSITIONS, count=st.integers(0, 20))
def test_log_probabilities_are_the_models_own(
    logits: np.ndarray, seed: int, position: int, count: int
) -> None:
    sampling = Sampling(temperature=2, top_p=0.5, seed=seed, logprobs=count)
    choice = choose(logits, sampling, position)
    own = np.log(softmax(logits, 1.0))
    assert choice.logprob == pytest.approx(own[choice.token], abs=1e-9)
    expected = np.argsort(-own, kind="stable")[:count]
    assert [token for token, _ in choice.top] == expected.tolist()
    assert [value for _, value in choice.top] == pytest.approx(own[expected].tolist(), abs=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_tokens_come_as_often_as_they_are_likely(temperature: float, top_p: float) -> None:
    logits = np.array([0.3, -1.0, 2.0, 1.2, -4.0, 1.2, 0.0], np.float32)
    chances = nucleus(softmax(logits, temperature), top_p)
    chances = chances / chances.sum()
    draws = 8_000
    found = np.zeros(len(logits))
    for position in range(draws):
        sampling = Sampling(temperature=temperature, top_p=top_p, seed=7)
        found[choose(logits, sampling, position).token] += 1
    assert (found[chances == 0] == 0).all()
    possible = chances > 0
    expected = chances[possible] * draws
    chi = float(((found[possible] - expected) ** 2 / expected).sum())
    assert chi < 30  # six degrees of freedom at most: by chance once in 25,000


def test_seeds_and_positions_draw_independent_numbers() -> None:
    numbers = np.array([[uniform(seed, position) for position in range(200)] for seed in range(50)])
    assert (numbers >= 0).all() and (numbers < 1).all()
    assert len(np.unique(numbers)) == numbers.size
    assert abs(float(numbers.mean()) - 0.5) < 0.02
    along = np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]
    across = np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]
    assert max(abs(along), abs(across)) < 0.04


def test_the_generator_is_pinned() -> None:
    # A server that is updated between two sessions must go on alike.
    found = [uniform(0, 1), uniform(1, 1), uniform(2**53 - 1, 4096)]
    assert found == [0.5023796042735054, 0.9002684531124185, 0.9039274424662633]


def test_the_ends_of_the_interval_draw_the_first_and_the_last_possible_token() -> None:
    chances = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    assert draw(chances, 0.0) == 1
    assert draw(chances, 0.25 - 1e-12) == 1
    assert draw(chances, 0.25) == 3
    assert draw(chances, math.nextafter(1.0, 0.0)) == 3


def test_a_tiny_top_p_and_a_tiny_temperature_are_greedy() -> None:
    logits = np.array([1.0, 3.0, 2.9], np.float32)
    for sampling in (Sampling(top_p=1e-12), Sampling(temperature=1e-300)):
        assert {choose(logits, sampling, position).token for position in range(50)} == {1}


def test_forbidden_tokens_are_never_drawn_nor_told() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 1.0], np.float32)
    found = [choose(logits, Sampling(logprobs=4), position) for position in range(100)]
    assert {choice.token for choice in found} == {1, 3}
    assert [token for token, _ in found[0].top] == [3, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(RefusedError) as refused:
            choose(np.array([0.0, bad]), Sampling(temperature=temperature), 1)
        assert refused.value.code == "not_finite"
