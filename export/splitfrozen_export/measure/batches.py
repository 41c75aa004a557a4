"""Token ids in the shapes that a comparison runs: one token, one long example, a ragged batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = Sequence[int]
Batch = Sequence[Ids]

RAGGED = 8  # examples of the ragged batch
LONG = 256  # tokens of the long example, at most


def sample_batches(rows: Sequence[Ids], max_length: int) -> list[list[Ids]]:
    """One token; one long example; and last a ragged batch, as lists of token ids.

    The ragged batch takes RAGGED examples from all over `rows`. Needs at least one example that is
    not empty; empty ones are left out, long ones cut off.
    """
    kept = [list(ids[:max_length]) for ids in rows if len(ids)]
    joined = [token for row in kept for token in row]
    long = (joined * (1 + LONG // len(joined)))[: min(max_length, LONG)]
    count = min(len(kept), RAGGED)
    spread: list[Ids] = [kept[index * len(kept) // count] for index in range(count)]
    return [[kept[0][:1]], [long], spread]


def pad_batch(batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and mask, int64 [batch, seq]; padded on the right with id 0."""
    shape = (len(batch), max(map(len, batch)))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, example in enumerate(batch):
        ids[row, : len(example)] = example
        mask[row, : len(example)] = 1
    return ids, mask


def real_tokens(values: NDArray[np.float32], batch: Batch) -> NDArray[np.float32]:
    """The rows [tokens, d] of `values` [batch, seq, d] that are no padding, example by example."""
    return np.concatenate([values[row, : len(ids)] for row, ids in enumerate(batch)])


def shapes_of(batches: Sequence[Batch]) -> tuple[tuple[int, int], ...]:
    """[batch, seq] of each run."""
    return tuple((len(batch), max(map(len, batch))) for batch in batches)
