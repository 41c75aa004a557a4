"""Embedding tables in int8 with one scale per row, or in blocks: a pass over an ONNX graph.

Tables are half of a device segment or more. A row keeps its own scale, so one row with outliers
costs the others nothing; the stock quantizer has one scale for the whole table.

    Gather(table float32 [V, d], ids) -> Cast(Gather(int8 [V, d], ids)) * Gather(scale [V, 1], ids)
    Gather(table float32 [V, d], ids) -> GatherBlockQuantized(codes, ids, scales, zero points)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitfrozen_export.graph.edits import add_constant, supersede
from splitfrozen_export.graph.stored_rows import Rows, rows_of
from splitfrozen_export.precision.block_codes import BLOCK, quantize_blocks
from splitfrozen_export.precision.products import MICROSOFT

# Narrower tables are no embeddings (relative position biases: one column per head).
MIN_WIDTH = 32
# Tables this much smaller than the largest (positions, token types) stay int8 beside 4 bits:
# there is nothing to save.
_SMALL = 16
_CHUNK = 1 << 22  # values that are coded at a time


def quantize_tables(model: ir.Model, embedding: str = "int8", *, blocks: bool = False) -> int:
    """Code every embedding table of the graph in int8 or int4; return how many lookups changed.

    int8 has one scale per row, or with `blocks` one per 32 values, which is more precise and an
    eighth larger; int4 always has blocks.
    """
    graph = model.graph
    lookups = [node for node in graph if _is_lookup(node)]
    largest = max((_size(node) for node in lookups), default=0)
    for node in lookups:
        small = _size(node) * _SMALL <= largest
        bits = 4 if embedding == "int4" and not small else 8
        if (bits == 4 or blocks) and _width(node) * bits % 8 == 0:
            _replace_by_blocks(graph, node, bits)
        else:
            _replace_by_rows(graph, node)
    return len(lookups)


def quantize_table(table: Rows) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Code float32 [V, d] as int8 with float32 scales [V, 1]; a row of zeros stays zeros.

    Some rows at a time: a table may be larger than the memory that is left beside it.
    """
    rows, width = table.shape
    coded, scale = np.empty((rows, width), np.int8), np.empty((rows, 1), np.float32)
    step = max(1, _CHUNK // width)
    for start in range(0, rows, step):
        piece = slice(start, start + step)
        values = table[piece]
        scale[piece] = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
        divisor = np.where(scale[piece] == 0, np.float32(1), scale[piece])
        coded[piece] = np.clip(np.rint(values / divisor), -127, 127)
    return coded, scale


def _is_lookup(node: ir.Node) -> bool:
    if node.op_type != "Gather" or node.domain or node.inputs[0] is None:
        return False
    axis = node.attributes.get("axis")
    if axis is not None and axis.as_int() != 0:
        return False
    table = node.inputs[0].const_value
    if table is None or table.dtype != ir.DataType.FLOAT or len(table.shape) != 2:
        return False
    return _width(node) >= MIN_WIDTH


def _size(node: ir.Node) -> int:
    table = node.inputs[0]
    assert table is not None and table.const_value is not None
    return int(table.const_value.size)


def _width(node: ir.Node) -> int:
    table = node.inputs[0]
    assert table is not None and table.const_value is not None
    return table.const_value.shape.numpy()[1]


def _operands(node: ir.Node) -> tuple[ir.Value, ir.TensorProtocol, ir.Value]:
    table, ids = node.inputs
    assert table is not None and table.const_value is not None and ids is not None
    return table, table.const_value, ids


def _replace_by_rows(graph: ir.Graph, node: ir.Node) -> None:
    table, values, ids = _operands(node)
    names = (f"{table.name}_rows_int8", f"{table.name}_rows_scale")
    if names[0] not in graph.initializers:
        coded, scale = quantize_table(rows_of(values))
        add_constant(graph, names[0], coded)
        add_constant(graph, names[1], scale)
    tape = ir.tape.Tape()
    rows, scales = (tape.op("Gather", [graph.initializers[name], ids]) for name in names)
    numbers = tape.op("Cast", [rows], {"to": ir.DataType.FLOAT.value})
    result = tape.op("Mul", [numbers, scales])
    graph.insert_before(node, tape.nodes)
    supersede(node, result)


def _replace_by_blocks(graph: ir.Graph, node: ir.Node, bits: int) -> None:
    table, values, ids = _operands(node)
    names = [f"{table.name}_{bits}bit_{part}" for part in ("codes", "scales", "zero_points")]
    if names[0] not in graph.initializers:
        codes = quantize_blocks(rows_of(values), bits)
        packed = codes.packed[:, : _width(node) * bits // 8]  # without the filled-up rest
        arrays: tuple[NDArray[Any], ...] = (packed, codes.scales, codes.zero_points)
        for name, array in zip(names, arrays, strict=True):
            add_constant(graph, name, np.ascontiguousarray(array))
    coded, scales, points = (graph.initializers[name] for name in names)
    attributes = {"bits": bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
    tape = ir.tape.Tape()
    result = tape.op(
        "GatherBlockQuantized", [coded, ids, scales, points], attributes, domain=MICROSOFT
    )
    graph.insert_before(node, tape.nodes)
    supersede(node, result)
    graph.opset_imports[MICROSOFT] = 1
