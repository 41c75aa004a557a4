"""Assertions that an activation depends on its own text only, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from splitfrozen_export.measure.verify import run_graph

Ids = Sequence[int]


def ragged(vocabulary: int, lengths: Sequence[int], *, seed: int = 0) -> list[list[int]]:
    """Random token ids, clear of the special tokens at the start of a vocabulary."""
    numbers = np.random.default_rng(seed)
    return [numbers.integers(5, vocabulary, length).tolist() for length in lengths]


def assert_neighbours_do_not_matter(session: ort.InferenceSession, batch: Sequence[Ids]) -> None:
    """Each example alone gives, in every output, the bits that it gives in the padded batch."""
    together = run_graph(session, batch)
    for row, ids in enumerate(batch):
        for whole, alone in zip(together, run_graph(session, [ids]), strict=True):
            assert whole[row, : len(ids)].tobytes() == alone[0].tobytes(), f"length {len(ids)}"


def assert_later_tokens_do_not_matter(session: ort.InferenceSession, ids: Ids) -> None:
    """Every prefix of an example gives the bits that it gives inside the whole example."""
    whole = run_graph(session, [ids])
    for length in {1, 2, len(ids) // 3 + 1, len(ids) - 1} & set(range(1, len(ids))):
        for full, prefix in zip(whole, run_graph(session, [ids[:length]]), strict=True):
            assert full[0, :length].tobytes() == prefix[0].tobytes(), f"first {length} tokens"
