"""Embedding tables in int8 with one scale per row: a pass over an ONNX graph.

Tables are half of a device segment or more. A row keeps its own scale, so one row with outliers
costs the others nothing; the stock quantizer has one scale for the whole table.

    Gather(table float32 [V, d], ids) -> Cast(Gather(int8 [V, d], ids)) * Gather(scale [V, 1], ids)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitfrozen_export.edits import add_constant, supersede

# Narrower tables are no embeddings (relative position biases: one column per head).
MIN_WIDTH = 32


def quantize_tables(model: ir.Model) -> int:
    """Code every embedding table of the graph in int8; return how many lookups changed."""
    lookups = [node for node in model.graph if _is_lookup(node)]
    for node in lookups:
        _replace(model.graph, node)
    return len(lookups)


def quantize_table(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Code float32 [V, d] as int8 with float32 scales [V, 1]; a row of zeros stays zeros."""
    scale = np.abs(table).max(axis=1, keepdims=True) / np.float32(127)
    divisor = np.where(scale == 0, np.float32(1), scale)
    return np.clip(np.rint(table / divisor), -127, 127).astype(np.int8), scale


def _is_lookup(node: ir.Node) -> bool:
    if node.op_type != "Gather" or node.domain or node.inputs[0] is None:
        return False
    axis = node.attributes.get("axis")
    if axis is not None and axis.as_int() != 0:
        return False
    table = node.inputs[0].const_value
    if table is None or table.dtype != ir.DataType.FLOAT or len(table.shape) != 2:
        return False
    return bool(table.numpy().shape[1] >= MIN_WIDTH)


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    table, ids = node.inputs
    assert table is not None and table.const_value is not None and ids is not None
    coded, scale = quantize_table(np.asarray(table.const_value.numpy(), np.float32))
    tape = ir.tape.Tape()
    rows = tape.op("Gather", [add_constant(graph, f"{table.name}_rows_int8", coded), ids])
    scales = tape.op("Gather", [add_constant(graph, f"{table.name}_rows_scale", scale), ids])
    numbers = tape.op("Cast", [rows], {"to": ir.DataType.FLOAT.value})
    result = tape.op("Mul", [numbers, scales])
    graph.insert_before(node, tape.nodes)
    supersede(node, result)
