"""Run the cached graph in ONNX Runtime: what a client does with it, token by token or in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from splitfrozen.errors import SplitFrozenError
from splitfrozen.graph import ATTENTION_MASK, INPUT_IDS
from splitfrozen_export.measure.batches import Batch

Array = NDArray[Any]


class Decoder:
    """One batch of texts in the cached graph, growing to the right; the past starts empty."""

    def __init__(self, session: ort.InferenceSession, batch: int = 1) -> None:
        """`session` holds the cached graph; all its texts are one batch of that size."""
        self._session = session
        inputs = {value.name: value.shape for value in session.get_inputs()}
        self._past = {
            name: np.zeros((batch, shape[1], 0, shape[3]), np.float32)
            for name, shape in inputs.items()
            if name not in (INPUT_IDS, ATTENTION_MASK)
        }
        self._outputs = [value.name for value in session.get_outputs()]
        self._mask = np.zeros((batch, 0), np.int64)

    def feed(self, ids: Array, mask: Array | None = None) -> dict[str, Array]:
        """Run the next tokens, int64 [batch, seq]; return the outputs for them, without the past.

        `mask` [batch, seq] is 0 on padding, which stands left of a text. Raises SplitFrozenError
        `check_failed` when ONNX Runtime cannot run the graph.
        """
        mask = np.ones_like(ids) if mask is None else mask
        self._mask = np.concatenate([self._mask, mask], axis=1)
        feeds = {INPUT_IDS: ids, ATTENTION_MASK: self._mask, **self._past}
        try:
            found = self._session.run(self._outputs, feeds)
        except Exception as error:  # onnxruntime's exceptions have no common public class
            raise SplitFrozenError(
                "check_failed", f"ONNX Runtime cannot run the graph with past: {error}"
            ) from error
        outputs: dict[str, Array] = dict(zip(self._outputs, found, strict=True))
        for name in self._past:
            self._past[name] = outputs.pop(name.replace("past_key_values", "present"))
        return outputs


def decode(
    session: ort.InferenceSession, batch: Batch, chunks: Sequence[int]
) -> list[dict[str, Array]]:
    """Outputs [tokens, ...] of every text, fed in chunks of these sizes, the last one repeated.

    Texts of different lengths are padded on the left, so that all end together.
    """
    ids, mask = pad_left(batch)
    decoder = Decoder(session, len(batch))
    pieces, start = [], 0
    for size in _sizes(ids.shape[1], chunks):
        pieces.append(decoder.feed(ids[:, start : start + size], mask[:, start : start + size]))
        start += size
    whole = {name: np.concatenate([piece[name] for piece in pieces], 1) for name in pieces[0]}
    return [
        {name: values[row, -len(text) :] for name, values in whole.items()}
        for row, text in enumerate(batch)
    ]


def pad_left(batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and mask, int64 [batch, seq]; padded on the left with id 0."""
    shape = (len(batch), max(map(len, batch)))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, text in enumerate(batch):
        ids[row, shape[1] - len(text) :] = text
        mask[row, shape[1] - len(text) :] = 1
    return ids, mask


def _sizes(length: int, chunks: Sequence[int]) -> list[int]:
    sizes: list[int] = []
    while sum(sizes) < length:
        wanted = chunks[min(len(sizes), len(chunks) - 1)]
        sizes.append(min(wanted, length - sum(sizes)))
    return sizes
