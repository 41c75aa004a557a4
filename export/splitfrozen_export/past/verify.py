"""The graph with past against torch and against the prefill graph. Reports, decides nothing.

A server may keep activations by content, so the question is not only how close a token fed alone
comes to the same token in a whole text, but whether the bytes on the wire are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from splitfrozen.graph import HIDDEN, HIDDEN_Q, SCALE
from splitfrozen_export.measure.batches import Batch, Ids
from splitfrozen_export.measure.closeness import measure_closeness
from splitfrozen_export.measure.reference import Reference, run_reference
from splitfrozen_export.measure.verify import graph_in, open_session, run_graph
from splitfrozen_export.past.decode import Array, decode
from splitfrozen_export.past.save import cached_graph_in
from splitfrozen_export.split import DeviceSegment

STEPS = 64  # tokens that are fed one by one
_CHUNKS = (16, 1, 7, 3, 32)  # a prefill, a token, some more: sizes of the calls

Outputs = Sequence[dict[str, Array]]


@dataclass(frozen=True)
class CachedReport:
    """How far decoding is from reading whole texts. Errors are relative to a norm."""

    relative_error: float  # of single tokens and chunks, against torch
    prefill_error: float  # the same against the prefill graph
    changed_codes: float | None  # share of values on an int8 wire that differ from the prefill's
    largest_code_step: int | None  # by how many of their 254 steps, at most
    same_bytes: bool  # every output of every token is the prefill graph's, to the bit
    neighbour_difference: float  # largest change of an output by texts of the same length beside it
    padding_error: float  # relative change of a text by padding on its left, in a ragged batch
    tokens: int  # compared


def verify_cached(
    directory: Path, segment: DeviceSegment, examples: Sequence[Ids], *, max_length: int
) -> CachedReport:
    """Compare `device_with_past.onnx` in `directory` with the segment and with `device.onnx`."""
    return compare_cached(directory, run_reference(segment, examples, max_length=max_length))


def compare_cached(directory: Path, reference: Reference) -> CachedReport:
    """The same with answers that torch gave before.

    The long text of the reference is fed token by token, then in chunks; its ragged batch at
    once, padded on the left. Raises SplitFrozenError `check_failed` when a graph does not run.
    """
    texts = [[text] for text in reference.batches[1]] + [reference.batches[2]]
    expected = _prefill(open_session(graph_in(directory)), texts)  # closed before the next opens
    session = open_session(cached_graph_in(directory))
    (long,), ragged = texts[0], texts[-1]
    steps = decode(session, [long[:STEPS]], [1])
    chunked = decode(session, [long], _CHUNKS)
    padded = decode(session, ragged, _CHUNKS)
    whole = [_first(expected[0], len(long[:STEPS])), expected[0]]
    answers = _torch_answers(reference)
    found = [*steps, *chunked, *padded]
    wanted = [answers[0][: len(long[:STEPS])], *answers]
    changed, largest = _codes(whole, [*steps, *chunked])
    return CachedReport(
        relative_error=_error(wanted, [one[HIDDEN] for one in found]),
        prefill_error=_error([one[HIDDEN] for one in whole], _hidden([*steps, *chunked])),
        changed_codes=changed,
        largest_code_step=largest,
        same_bytes=_same_bytes(whole, [*steps, *chunked]),
        neighbour_difference=_neighbours(session, [long[:STEPS], long[-STEPS:]]),
        padding_error=_error([one[HIDDEN] for one in expected[1:]], _hidden(padded)),
        tokens=sum(len(one[HIDDEN]) for one in found),
    )


def _prefill(session: ort.InferenceSession, batches: Sequence[Batch]) -> list[dict[str, Array]]:
    """Outputs of the prefill graph, text by text."""
    names = [value.name for value in session.get_outputs()]
    found = []
    for batch in batches:
        outputs = run_graph(session, batch)
        for row, text in enumerate(batch):
            pairs = zip(names, outputs, strict=True)
            found.append({name: values[row, : len(text)] for name, values in pairs})
    return found


def _torch_answers(reference: Reference) -> list[NDArray[np.float32]]:
    """Activations of the long text, then of each text of the ragged batch."""
    lengths = [len(text) for batch in reference.batches for text in batch]
    answers = np.split(reference.hidden, np.cumsum(lengths)[:-1])
    return answers[len(reference.batches[0]) :]


def _first(outputs: dict[str, Array], tokens: int) -> dict[str, Array]:
    return {name: values[:tokens] for name, values in outputs.items()}


def _hidden(outputs: Outputs) -> list[Array]:
    return [one[HIDDEN] for one in outputs]


def _error(expected: Sequence[Array], found: Sequence[Array]) -> float:
    return measure_closeness(np.concatenate(expected), np.concatenate(found)).relative_error


def _codes(expected: Outputs, found: Outputs) -> tuple[float | None, int | None]:
    if HIDDEN_Q not in expected[0]:
        return None, None
    pairs = zip(expected, found, strict=True)
    steps = np.concatenate([one[HIDDEN_Q] - two[HIDDEN_Q].astype(int) for one, two in pairs])
    return float((steps != 0).mean()), int(np.abs(steps).max())


def _same_bytes(expected: Outputs, found: Outputs) -> bool:
    return all(
        np.array_equal(one[name], two[name])
        for one, two in zip(expected, found, strict=True)
        for name in (HIDDEN, HIDDEN_Q, SCALE)
        if name in one
    )


def _neighbours(session: ort.InferenceSession, batch: Batch) -> float:
    """Feed texts of one length together and alone."""
    together = decode(session, batch, _CHUNKS)
    alone = [decode(session, [text], _CHUNKS)[0] for text in batch]
    return max(
        float(np.abs(one[name].astype(np.float64) - two[name].astype(np.float64)).max())
        for one, two in zip(together, alone, strict=True)
        for name in one
    )
