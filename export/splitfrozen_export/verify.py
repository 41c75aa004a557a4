"""A device graph in ONNX Runtime against its segment in torch. Returns a report, decides nothing.

Shapes: one single token, a ragged batch padded on the right, one long example. Errors are taken
over real tokens only; what a graph answers on padding has no meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from splitfrozen.errors import SplitFrozenError
from splitfrozen.graph import ATTENTION_MASK, DEVICE_GRAPH, INPUT_IDS

Ids = Sequence[int]
Outputs = list[NDArray[Any]]

RAGGED = 8  # examples of the ragged batch
LONG = 256  # tokens of the long example, at most


@dataclass(frozen=True)
class Report:
    """How far a graph is from its segment. Errors are relative to the norm of the reference."""

    relative_error: float  # over all tokens together
    worst_token: float  # the largest over single tokens
    cosine_mean: float
    cosine_min: float
    neighbour_difference: float  # largest change of an output by batch neighbours and padding
    later_token_difference: float | None  # the same by later tokens; decoders only
    tokens: int  # compared
    shapes: tuple[tuple[int, int], ...]  # [batch, seq] of the runs


def verify(
    graph: Path, segment: nn.Module, examples: Sequence[Ids], *, max_length: int, causal: bool
) -> Report:
    """Compare the graph file with the torch segment on token ids.

    `causal` adds the check that a later token changes nothing before it. Needs at least one
    example; empty ones are left out.
    """
    session = open_session(graph)
    rows = [list(ids[:max_length]) for ids in examples if len(ids)]
    batches = sample_batches(rows, max_length)
    expected, found = [], []
    for batch in batches:
        expected.append(_real_tokens(_run_torch(segment, batch), batch))
        found.append(_real_tokens(run_graph(session, batch)[0], batch))
    return _report(
        np.concatenate(expected),
        np.concatenate(found),
        neighbours=neighbour_difference(session, batches[-1]),
        later=later_token_difference(session, batches[-1]) if causal else None,
        shapes=tuple((len(batch), max(map(len, batch))) for batch in batches),
    )


def open_session(graph: Path) -> ort.InferenceSession:
    """Load a graph and its external data on one thread of the CPU.

    Raises SplitFrozenError `check_failed` when ONNX Runtime cannot.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with _runtime_errors():
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def graph_in(directory: Path) -> Path:
    """Where a bundle directory has its device graph."""
    return directory / DEVICE_GRAPH


def sample_batches(rows: Sequence[Ids], max_length: int) -> list[list[Ids]]:
    """One token; one long example; and last a ragged batch, as lists of token ids."""
    joined = [token for row in rows for token in row]
    long = (joined * (1 + LONG // len(joined)))[: min(max_length, LONG)]
    return [[rows[0][:1]], [long], list(rows[:RAGGED])]


def run_graph(session: ort.InferenceSession, batch: Sequence[Ids]) -> Outputs:
    """All outputs for a batch, padded on the right with id 0.

    Raises SplitFrozenError `check_failed` when ONNX Runtime cannot run the graph on it.
    """
    ids, mask = _pad(batch)
    with _runtime_errors():
        outputs: Outputs = session.run(None, {INPUT_IDS: ids, ATTENTION_MASK: mask})
    return outputs


def neighbour_difference(session: ort.InferenceSession, batch: Sequence[Ids]) -> float:
    """Largest change in any output when an example leaves its batch; 0.0 means to the bit."""
    together = run_graph(session, batch)
    return max(
        _difference([output[row] for output in together], run_graph(session, [ids]), len(ids))
        for row, ids in enumerate(batch)
    )


def later_token_difference(session: ort.InferenceSession, batch: Sequence[Ids]) -> float:
    """Largest change in any output when the second half of an example is cut off."""
    largest = 0.0
    for ids in batch:
        half = (len(ids) + 1) // 2
        whole = [output[0] for output in run_graph(session, [ids])]
        largest = max(largest, _difference(whole, run_graph(session, [ids[:half]]), half))
    return largest


@contextmanager
def _runtime_errors() -> Iterator[None]:
    """ONNX Runtime has a class for each of its status codes and no base class but Exception."""
    try:
        yield
    except Exception as error:
        raise SplitFrozenError(
            "check_failed", f"ONNX Runtime cannot run the graph (another --opset may help): {error}"
        ) from error


def _difference(whole: Outputs, alone: Outputs, tokens: int) -> float:
    return max(
        float(np.abs(a[:tokens].astype(np.float64) - b[0].astype(np.float64)).max())
        for a, b in zip(whole, alone, strict=True)
    )


def _run_torch(segment: nn.Module, batch: Sequence[Ids]) -> NDArray[np.float32]:
    ids, mask = _pad(batch)
    with torch.no_grad():
        hidden = segment(torch.from_numpy(ids), torch.from_numpy(mask))
    result: NDArray[np.float32] = hidden.numpy()
    return result


def _pad(batch: Sequence[Ids]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shape = (len(batch), max(map(len, batch)))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, example in enumerate(batch):
        ids[row, : len(example)] = example
        mask[row, : len(example)] = 1
    return ids, mask


def _real_tokens(hidden: NDArray[np.float32], batch: Sequence[Ids]) -> NDArray[np.float64]:
    rows = [hidden[row, : len(ids)] for row, ids in enumerate(batch)]
    return np.concatenate(rows).astype(np.float64)


def _report(
    expected: NDArray[np.float64],
    found: NDArray[np.float64],
    *,
    neighbours: float,
    later: float | None,
    shapes: tuple[tuple[int, int], ...],
) -> Report:
    norms = np.maximum(np.linalg.norm(expected, axis=1), 1e-30)
    errors = np.linalg.norm(found - expected, axis=1)
    lengths = np.maximum(np.linalg.norm(found, axis=1), 1e-30)
    cosines = (expected * found).sum(axis=1) / (norms * lengths)
    return Report(
        relative_error=float(np.linalg.norm(errors) / np.linalg.norm(norms)),
        worst_token=float((errors / norms).max()),
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        neighbour_difference=neighbours,
        later_token_difference=later,
        tokens=len(expected),
        shapes=shapes,
    )
