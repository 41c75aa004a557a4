"""Two repairs of exported rotary positions: a pass over an ONNX graph.

1. The exporter may fuse RotaryEmbedding with tables for batch 1 (positions [1, T]), which ONNX
   Runtime refuses for any larger batch. The tables are expanded over the batch.
2. ONNX Runtime computes Cos and Sin a vector of floats at a time and the rest one by one, with
   another last bit. Where a row does not fill whole vectors, what is "the rest" depends on batch
   and length, so a token's values would too. Such rows are filled up first and cut after.
"""

from __future__ import annotations

import onnx_ir as ir

from splitfrozen_export.graph.edits import add_integers, supersede

VECTOR = 16  # floats of the widest vector unit (AVX-512); a multiple of all narrower ones


def repair_rotary(model: ir.Model) -> None:
    """Apply both repairs to every node that needs one."""
    standard = [node for node in model.graph if not node.domain]
    for node in standard:
        if node.op_type == "RotaryEmbedding":
            _expand_tables(model.graph, node)
    for node in standard:
        if node.op_type in ("Cos", "Sin"):
            _fill_vectors(model.graph, node)


def _expand_tables(graph: ir.Graph, node: ir.Node) -> None:
    """Give cos and sin tables [1, T, h] the batch of the rotated [B, heads, T, d]."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return  # explicit position ids: the tables have no batch axis
    for index in (1, 2):
        table = node.inputs[index]
        assert table is not None
        if not _may_lack_batch(table):
            continue
        tape = ir.tape.Tape()
        batch = tape.op("Shape", [node.inputs[0]], {"start": 0, "end": 1})
        shape = tape.op("Concat", [batch, add_integers(graph, 1, 1)], {"axis": 0})
        expanded = tape.op("Expand", [table, shape])
        graph.insert_before(node, tape.nodes)
        node.replace_input_with(index, expanded)


def _may_lack_batch(table: ir.Value) -> bool:
    """Whether the first axis is 1 or unknown; Cos and Sin have the shape of their input."""
    producer = table.producer()
    known = table if table.shape is not None or producer is None else producer.inputs[0]
    if known is None or known.shape is None:
        return True
    return known.shape[0] in (1, None) or known.shape[0] == ir.SymbolicDim(None)


def _fill_vectors(graph: ir.Graph, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    if source.shape is None or not isinstance(source.shape[-1], int):
        return
    rank, width = len(source.shape), source.shape[-1]
    missing = -width % VECTOR
    if not missing:
        return
    tape = ir.tape.Tape()
    pads = add_integers(graph, *[0] * (2 * rank - 1), missing)
    filled = tape.op(node.op_type, [tape.op("Pad", [source, pads])])
    bounds = [add_integers(graph, number) for number in (0, width, rank - 1)]
    result = tape.op("Slice", [filled, *bounds])
    graph.insert_before(node, tape.nodes)
    supersede(node, result)
