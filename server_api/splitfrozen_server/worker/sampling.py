"""The next token as a pure function of (seed, position, logits). numpy only.

A device whose session is lost makes a new one with the same seed and sends its tokens again: it
must go on as if nothing had happened. So no generator is kept between tokens: the random number of
a position is read out of a counter-based generator at that place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitfrozen.errors import RefusedError

Float64 = NDArray[np.float64]

_MANTISSA = 53  # bits of a float64
_SLACK = 1e-9  # more than two ways of adding chances may differ


@dataclass(frozen=True)
class Sampling:
    """How a session chooses its tokens."""

    temperature: float = 1.0  # 0: always the most likely one
    top_p: float = 1.0  # the smallest set of tokens with at least this probability
    seed: int = 0
    logprobs: int = 0  # most likely tokens that are told with each answer


@dataclass(frozen=True)
class Choice:
    """A chosen token; log probabilities are the model's own, before temperature and top_p."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # most likely first

    def to_json(self) -> dict[str, Any]:
        return {
            "token": self.token,
            "logprob": self.logprob,
            "top_logprobs": [{"token": token, "logprob": value} for token, value in self.top],
        }


def choose(logits: NDArray[Any], sampling: Sampling, position: int) -> Choice:
    """The token that follows `position` tokens; `logits` [vocabulary] in any float type.

    Raises RefusedError `not_finite` for logits that no distribution can be made of.
    """
    scores = np.asarray(logits, np.float64)
    if np.isnan(scores).any() or not np.isfinite(scores.max()):
        raise RefusedError("not_finite", "the model's scores for the next token are not finite")
    own = _log_softmax(scores)
    if sampling.temperature == 0:
        token = int(scores.argmax())  # the lowest id of equals
    else:
        chances = nucleus(np.exp(_log_softmax(_scaled(scores, sampling))), sampling.top_p)
        token = draw(chances, uniform(sampling.seed, position))
    return Choice(token, float(own[token]), _most_likely(own, sampling.logprobs))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1): the first 53 bits of Philox with key `seed` and counter `position`."""
    generator = np.random.Philox(key=seed, counter=position)
    return float(int(generator.random_raw()) >> (64 - _MANTISSA)) * 2.0**-_MANTISSA


def nucleus(chances: Float64, top_p: float) -> Float64:
    """Zero all but the most likely tokens that together reach `top_p`; at least one stays.

    Of equally likely ones the lower id counts as more likely. The result is not normalised.
    """
    if top_p >= 1:
        return chances
    candidates = _likely(chances, top_p)
    order = candidates[np.argsort(-chances[candidates], kind="stable")]
    reached = np.cumsum(chances[order])
    kept = order[: int(np.searchsorted(reached, top_p)) + 1]
    found = np.zeros_like(chances)
    found[kept] = chances[kept]
    return found


def draw(chances: Float64, place: float) -> int:
    """The token at `place` in [0, 1) of the cumulated `chances`, in the order of ids.

    The order of ids and not of likelihood: when last bits of the logits differ, as they do between
    a prefill and single tokens, two tokens that are almost equally likely do not change places.
    """
    cumulated = np.cumsum(chances)
    found = int(np.searchsorted(cumulated, place * cumulated[-1], side="right"))
    last = int(np.flatnonzero(chances)[-1])  # rounding may point behind it
    return min(found, last)


def _likely(chances: Float64, share: float) -> NDArray[np.intp]:
    """Ids, in their order, of the most likely tokens: enough to reach `share`, not all to sort."""
    count = 64
    while count < len(chances):
        border = np.partition(chances, -count)[-count]
        found = np.flatnonzero(chances >= border)
        if chances[found].sum() > share + _SLACK:
            return found
        count *= 16
    return np.arange(len(chances))


def _scaled(scores: Float64, sampling: Sampling) -> Float64:
    # From the maximum: a tiny temperature then gives -inf, which is chance 0, and never inf.
    with np.errstate(over="ignore"):
        found: Float64 = (scores - scores.max()) / sampling.temperature
    return found


def _log_softmax(scores: Float64) -> Float64:
    shifted = scores - scores.max()
    found: Float64 = shifted - np.log(np.exp(shifted).sum())
    return found


def _most_likely(own: Float64, count: int) -> tuple[tuple[int, float], ...]:
    if count == 0:
        return ()
    count = min(count, len(own))
    border = np.partition(own, -count)[-count]
    candidates = np.flatnonzero(own >= border)  # in the order of ids, ties at the border too
    best = candidates[np.argsort(-own[candidates], kind="stable")][:count]
    return tuple((int(token), float(own[token])) for token in best if np.isfinite(own[token]))
