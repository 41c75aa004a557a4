"""One new token gives the bits that it gives in a longer text: a pass over the cached graph.

ONNX Runtime multiplies a single row with another kernel, which adds up in another order. In a
decoding step that is every attention: the last bits of its result differ from those of a prefill,
and now and then one flips a rounding further up. So each attention gets one query more than it
needs, a copy of the last, and its answer is dropped: for about 5 % of a step's time, the same
bytes are on the wire however a text is fed. Integer products are exact either way; those in
floating point (precision fp32) are left alone.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from splitfrozen_export.graph.edits import add_integers

_LAST_DIM = 2**31 - 1


def keep_two_rows(model: ir.Model) -> int:
    """Rewrite every product of two computed values; return how many there were."""
    found = [node for node in model.graph if _is_attention(node) or _is_computed_product(node)]
    for node in found:
        _repeat_last_row(model.graph, node)
    common.CommonSubexpressionEliminationPass()(model)  # blocks share their mask
    return len(found)


def _is_attention(node: ir.Node) -> bool:
    return node.op_type == "Attention" and not node.domain


def _is_computed_product(node: ir.Node) -> bool:
    """Scores and weighted sums, where the trace has no Attention node."""
    return node.op_type == "MatMul" and all(
        value is not None and value.const_value is None and len(value.shape or ()) >= 3
        for value in node.inputs
    )


def _repeat_last_row(graph: ir.Graph, node: ir.Node) -> None:
    """Rows are the second axis from the end: of queries, scores, and of a mask that has them."""
    rows = [0] if node.op_type == "MatMul" else [0, 3]
    for index in rows:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or (value.shape is not None and value.shape[-2] == 1):
            continue  # a mask that is the same for all queries
        tape = ir.tape.Tape()
        axis = add_integers(graph, -2)
        bounds = [add_integers(graph, number) for number in (-1, _LAST_DIM)]
        last = tape.op("Slice", [value, *bounds, axis])
        longer = tape.op("Concat", [value, last], {"axis": -2})
        graph.insert_before(node, tape.nodes)
        node.replace_input_with(index, longer)
    (result,) = node.outputs[:1]
    tape = ir.tape.Tape()
    bounds = [add_integers(graph, number) for number in (0, -1, -2)]
    ahead = list(result.uses())
    shorter = tape.op("Slice", [result, *bounds])
    shorter.shape, shorter.type = result.shape, result.type
    result.shape = None
    for user, index in ahead:
        user.replace_input_with(index, shorter)
    graph.insert_after(node, tape.nodes)
