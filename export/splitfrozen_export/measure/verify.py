"""A device graph in ONNX Runtime against its segment in torch. Returns a report, decides nothing.

Shapes: one single token, a ragged batch padded on the right, one long example. Errors are taken
over real tokens only; what a graph answers on padding has no meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from torch import nn

from splitfrozen.errors import SplitFrozenError
from splitfrozen.graph import ATTENTION_MASK, DEVICE_GRAPH, HIDDEN, INPUT_IDS
from splitfrozen_export.measure.batches import (
    Batch,
    Ids,
    pad_batch,
    real_tokens,
    sample_batches,
    shapes_of,
)
from splitfrozen_export.measure.closeness import Closeness, measure_closeness
from splitfrozen_export.measure.reference import Reference, run_reference

__all__ = [
    "Report",
    "compare",
    "compare_blocks",
    "graph_in",
    "later_token_difference",
    "neighbour_difference",
    "open_session",
    "run_graph",
    "sample_batches",
    "verify",
]

Outputs = list[NDArray[Any]]


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
    return compare(graph, run_reference(segment, examples, max_length=max_length), causal=causal)


def compare(graph: Path, reference: Reference, *, causal: bool) -> Report:
    """Compare the graph file with what torch answered, and with itself in other company."""
    session = open_session(graph)
    batches = reference.batches
    found = [real_tokens(run_graph(session, batch)[0], batch) for batch in batches]
    return Report(
        **asdict(measure_closeness(reference.hidden, np.concatenate(found))),
        neighbour_difference=neighbour_difference(session, batches[-1]),
        later_token_difference=later_token_difference(session, batches[-1]) if causal else None,
        tokens=len(reference.hidden),
        shapes=shapes_of(batches),
    )


def compare_blocks(graph: Path, reference: Reference) -> list[Closeness]:
    """Closeness after every block, the last one at the cut.

    The graph has the outputs `block_0` .. `block_{cut-2}` besides those of a device graph.
    """
    session = open_session(graph)
    names = [f"block_{index}" for index in range(len(reference.blocks))] + [HIDDEN]
    runs = [
        [real_tokens(values, batch) for values in _run(session, names, batch)]
        for batch in reference.batches
    ]
    expected = [*reference.blocks, reference.hidden]
    return [
        measure_closeness(wanted, np.concatenate(parts))
        for wanted, parts in zip(expected, zip(*runs, strict=True), strict=True)
    ]


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


def run_graph(session: ort.InferenceSession, batch: Batch) -> Outputs:
    """All outputs for a batch, padded on the right with id 0.

    Raises SplitFrozenError `check_failed` when ONNX Runtime cannot run the graph on it.
    """
    return _run(session, None, batch)


def neighbour_difference(session: ort.InferenceSession, batch: Batch) -> float:
    """Largest change in any output when an example leaves its batch; 0.0 means to the bit."""
    together = run_graph(session, batch)
    return max(
        _difference([output[row] for output in together], run_graph(session, [ids]), len(ids))
        for row, ids in enumerate(batch)
    )


def later_token_difference(session: ort.InferenceSession, batch: Batch) -> float:
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


def _run(session: ort.InferenceSession, names: list[str] | None, batch: Batch) -> Outputs:
    ids, mask = pad_batch(batch)
    with _runtime_errors():
        outputs: Outputs = session.run(names, {INPUT_IDS: ids, ATTENTION_MASK: mask})
    return outputs


def _difference(whole: Outputs, alone: Outputs, tokens: int) -> float:
    return max(
        float(np.abs(a[:tokens].astype(np.float64) - b[0].astype(np.float64)).max())
        for a, b in zip(whole, alone, strict=True)
    )
