"""How far activations are from what they should be. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TINY = 1e-30  # instead of the norm of a token that is all zeros


@dataclass(frozen=True)
class Closeness:
    """Errors are relative to the norm of the reference; NaN anywhere makes all of them NaN."""

    relative_error: float  # over all tokens together
    worst_token: float  # the largest over single tokens
    cosine_mean: float
    cosine_min: float


def measure_closeness(expected: NDArray[np.float32], found: NDArray[np.float32]) -> Closeness:
    """Compare activations [tokens, d] with their reference, in double precision."""
    wanted, got = expected.astype(np.float64), found.astype(np.float64)
    norms = np.maximum(np.linalg.norm(wanted, axis=1), _TINY)
    lengths = np.maximum(np.linalg.norm(got, axis=1), _TINY)
    errors = np.linalg.norm(got - wanted, axis=1)
    cosines = (wanted * got).sum(axis=1) / (norms * lengths)
    return Closeness(
        relative_error=float(np.linalg.norm(errors) / np.linalg.norm(norms)),
        worst_token=float((errors / norms).max()),
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
    )
