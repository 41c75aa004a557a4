"""Time per block, from ONNX Runtime's own times of the nodes of a graph. Pure.

The nodes of an exported graph do not say which block they belong to, but they run in order, and
every block has the same number of matrix products. So a block ends with its last product, and
what follows up to the next block's first product (a residual sum, a norm) counts with the next:
microseconds beside the products' milliseconds. Where the products do not divide evenly, there is
only the mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PRODUCTS = ("MatMul", "Gemm")  # in the names of all operators that multiply by weights
_KERNEL = "_kernel_time"

Event = Mapping[str, Any]  # of the file that ONNX Runtime writes


@dataclass(frozen=True)
class BlockTimes:
    """Milliseconds of one batch."""

    before: float  # embedding, masks
    blocks: tuple[float, ...]
    after: float  # the wire codec
    even: bool  # False: products do not divide by the blocks; `blocks` are all the mean


def block_times(events: Sequence[Event], blocks: int) -> BlockTimes | None:
    """Medians over all runs in a profile but the first; None if it has no node times."""
    found = [split_run(run, blocks) for run in _runs(events)[1:]]
    if not found:
        return None
    return BlockTimes(
        _median([times.before for times in found]),
        tuple(_median([times.blocks[i] for times in found]) for i in range(blocks)),
        _median([times.after for times in found]),
        all(times.even for times in found),
    )


def split_run(run: Sequence[tuple[str, float]], blocks: int) -> BlockTimes:
    """Divide (operator, milliseconds) in the order of running among so many blocks."""
    products = [i for i, (operator, _) in enumerate(run) if _is_product(operator)]
    times = [milliseconds for _, milliseconds in run]
    if not products or len(products) % blocks:
        return BlockTimes(0.0, (sum(times) / blocks,) * blocks, 0.0, False)
    each = len(products) // blocks
    ends = [products[each * (i + 1) - 1] + 1 for i in range(blocks)]
    starts = [products[0], *ends[:-1]]
    parts = tuple(sum(times[start:end]) for start, end in zip(starts, ends, strict=True))
    return BlockTimes(sum(times[: products[0]]), parts, sum(times[ends[-1] :]), True)


def _runs(events: Sequence[Event]) -> list[list[tuple[str, float]]]:
    """The node times of each run of the model, in order."""
    ends = sorted(
        float(event["ts"]) + float(event["dur"])
        for event in events
        if event.get("cat") == "Session" and event.get("name") == "model_run"
    )
    nodes = sorted((event for event in events if _is_node(event)), key=lambda e: float(e["ts"]))
    runs: list[list[tuple[str, float]]] = [[] for _ in ends]
    place = 0
    for event in nodes:
        while place < len(ends) and float(event["ts"]) > ends[place]:
            place += 1
        if place < len(ends):
            operator = str(event["args"].get("op_name", ""))
            runs[place].append((operator, float(event["dur"]) / 1000))
    return [run for run in runs if run]


def _is_node(event: Event) -> bool:
    return event.get("cat") == "Node" and str(event.get("name", "")).endswith(_KERNEL)


def _is_product(operator: str) -> bool:
    return any(part in operator for part in _PRODUCTS)


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)
