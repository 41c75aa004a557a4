"""Candidate rewrites of a traced fp32 graph, to be measured against the plain one.

Each takes an `onnx_ir` model, edits it in place and returns how many places it changed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from splitfrozen_export.graph.edits import add_constant, drop_unused, supersede
from splitfrozen_export.graph.fuse import fuse_graph
from splitfrozen_export.precision.products import MICROSOFT

_SWAP = (0, 2, 1, 3)  # [batch, tokens, heads, width] <-> [batch, heads, tokens, width]


def multi_head_attention(model: ir.Model) -> int:
    """`com.microsoft::MultiHeadAttention` instead of Attention."""
    count = 0
    for node in [n for n in model.graph if n.op_type == "Attention" and not n.domain]:
        whole = [_before_heads(value) for value in node.inputs[:3]]
        joined, heads = _after_heads(node), [_heads(value) for value in node.inputs[:3]]
        sources = [value for value in whole if value is not None]
        if joined is None or len(sources) < 3 or len(set(heads)) > 1 or heads[0] is None:
            continue
        tape = ir.tape.Tape()
        result = _microsoft(model, tape, node, sources, heads[0])
        model.graph.insert_before(joined, tape.nodes)
        supersede(joined, result)
        count += 1
    return _done(model, count)


def skip_norms(model: ir.Model) -> int:
    """`com.microsoft::Skip(Simplified)LayerNormalization` for a residual sum and its norm."""
    names = {
        "LayerNormalization": "SkipLayerNormalization",
        "RMSNormalization": "SkipSimplifiedLayerNormalization",
    }
    count = 0
    for norm in [node for node in model.graph if node.op_type in names and not node.domain]:
        total = norm.inputs[0]
        added = None if total is None else total.producer()
        if total is None or added is None or added.op_type != "Add" or total.is_graph_output():
            continue
        left, right = added.inputs
        if not (_is_sequence(left) and _is_sequence(right)):
            continue
        tape = ir.tape.Tape()
        results = tape.op_multi_out(
            names[norm.op_type],
            [left, right, *norm.inputs[1:]],
            {"epsilon": norm.attributes["epsilon"].as_float()},
            domain=MICROSOFT,
            num_outputs=4,
        )
        model.graph.insert_before(norm, tape.nodes)
        summed = results[3]
        supersede(norm, results[0])
        _move_behind(model.graph, added, summed)
        count += 1
    return _done(model, count)


def _move_behind(graph: ir.Graph, added: ir.Node, summed: ir.Value) -> None:
    """Let `summed` stand for the sum; skip when somebody before it still needs the sum."""
    old = added.outputs[0]
    summed.shape, summed.type = old.shape, old.type
    order = {node: index for index, node in enumerate(graph)}
    producer = summed.producer()
    assert producer is not None
    for user, index in list(old.uses()):
        if order[user] > order[producer]:
            user.replace_input_with(index, summed)


def _microsoft(
    model: ir.Model, tape: ir.tape.Tape, node: ir.Node, whole: list[ir.Value], heads: int
) -> ir.Value:
    bias = None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        zero = add_constant(model.graph, "attended", np.array(0, np.float32))
        never = add_constant(model.graph, "not_attended", np.array(-3.4e38, np.float32))
        bias = tape.op("Where", [node.inputs[3], zero, never])
    values = {"num_heads": heads}
    if "scale" in node.attributes:
        values["scale"] = node.attributes["scale"].value
    return tape.op("MultiHeadAttention", [*whole, None, None, bias], values, domain=MICROSOFT)


def _before_heads(value: ir.Value | None) -> ir.Value | None:
    """[batch, tokens, heads * width] behind Transpose(Reshape(x)), else None."""
    swap = None if value is None else value.producer()
    if swap is None or not _swaps(swap) or swap.inputs[0] is None:
        return None
    split = swap.inputs[0].producer()
    return None if split is None or split.op_type != "Reshape" else split.inputs[0]


def _heads(value: ir.Value | None) -> int | None:
    shape = None if value is None else value.shape
    return shape[1] if shape is not None and isinstance(shape[1], int) else None


def _after_heads(node: ir.Node) -> ir.Node | None:
    """The Reshape that joins the heads behind an attention, else None."""
    for kind in ("Transpose", "Reshape"):
        uses = list(node.outputs[0].uses())
        if len(uses) != 1 or uses[0].node.op_type != kind:
            return None
        node = uses[0].node
        if kind == "Transpose" and not _swaps(node):
            return None
    return node


def _swaps(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) == _SWAP


def _is_sequence(value: ir.Value | None) -> bool:
    shape = None if value is None else value.shape
    return shape is not None and len(shape) == 3


def _done(model: ir.Model, count: int) -> int:
    if count:
        model.graph.opset_imports[MICROSOFT] = 1
    drop_unused(model)
    return count


PASSES: dict[str, Callable[[ir.Model], int]] = {
    "attention on unsplit heads": fuse_graph,
    "MultiHeadAttention": multi_head_attention,
    "fused residual norms": skip_norms,
}
