"""Candidate rewrites of a traced fp32 graph, to be measured against the plain one.

Each takes an `onnx_ir` model, edits it in place and returns how many places it changed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from splitfrozen.graph import ATTENTION_MASK
from splitfrozen_export.graph.edits import add_constant, add_integers, drop_unused, supersede
from splitfrozen_export.graph.fuse import fuse_graph
from splitfrozen_export.precision.products import MICROSOFT


def multi_head_attention(model: ir.Model) -> int:
    """`com.microsoft::MultiHeadAttention` instead of Attention."""
    return _other_attention(model, _multi_head)


def group_query_attention(model: ir.Model) -> int:
    """`com.microsoft::GroupQueryAttention` instead of a causal Attention.

    It takes lengths in the place of a mask: right for causal models padded behind, no others.
    """
    return _other_attention(model, _group_query)


def microsoft_rotary(model: ir.Model) -> int:
    """`com.microsoft::RotaryEmbedding`, which wants a table by position, on unsplit heads."""
    fuse_graph(model)
    found = [n for n in model.graph if n.op_type == "RotaryEmbedding" and not n.domain]
    for node in found:
        tape = ir.tape.Tape()
        source, cosine, sine = node.inputs[:3]
        assert source is not None and source.shape is not None
        width = source.shape[2]
        assert isinstance(width, int)
        heads = node.attributes["num_heads"].as_int()
        half = add_integers(model.graph, -1, width // heads // 2)
        tables = [tape.op("Reshape", [table, half]) for table in (cosine, sine)]
        sizes = tape.op("Shape", [cosine], {"end": 2})
        count = tape.op("ReduceProd", [sizes], {"keepdims": 0})
        zero, one = (add_constant(model.graph, f"int_{n}", np.array(n)) for n in (0, 1))
        places = tape.op("Reshape", [tape.op("Range", [zero, count, one]), sizes])
        attributes = {"num_heads": node.attributes["num_heads"].as_int()}
        result = tape.op("RotaryEmbedding", [source, places, *tables], attributes, domain=MICROSOFT)
        model.graph.insert_before(node, tape.nodes)
        supersede(node, result)
    return _done(model, len(found))


def bias_gelu(model: ir.Model) -> int:
    """`com.microsoft::FastGelu` or `BiasGelu` for a bias and the GELU behind it."""
    count = 0
    for node in [n for n in model.graph if n.op_type == "Gelu" and not n.domain]:
        added = None if node.inputs[0] is None else node.inputs[0].producer()
        if added is None or added.op_type != "Add" or len(list(added.outputs[0].uses())) > 1:
            continue
        bias = next((v for v in added.inputs if v is not None and len(v.shape or ()) == 1), None)
        if bias is None:
            continue
        source = added.inputs[1] if added.inputs[0] is bias else added.inputs[0]
        kind = node.attributes.get("approximate")
        fast = kind is not None and kind.as_string() == "tanh"
        tape = ir.tape.Tape()
        name = "FastGelu" if fast else "BiasGelu"
        result = tape.op(name, [source, bias], domain=MICROSOFT)
        model.graph.insert_before(node, tape.nodes)
        supersede(node, result)
        count += 1
    return _done(model, count)


def quick_gelu(model: ir.Model) -> int:
    """`com.microsoft::QuickGelu` for x * sigmoid(x), the SiLU of Llama's family."""
    count = 0
    for node in [n for n in model.graph if n.op_type == "Mul" and not n.domain]:
        for source, gate in (node.inputs, node.inputs[::-1]):
            sigmoid = None if gate is None else gate.producer()
            if sigmoid is None or sigmoid.op_type != "Sigmoid" or sigmoid.inputs[0] is not source:
                continue
            tape = ir.tape.Tape()
            result = tape.op("QuickGelu", [source], {"alpha": 1.0}, domain=MICROSOFT)
            model.graph.insert_before(node, tape.nodes)
            supersede(node, result)
            count += 1
            break
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


def _other_attention(
    model: ir.Model, build: Callable[[ir.Model, ir.tape.Tape, ir.Node], ir.Value | None]
) -> int:
    """Put what `build` makes in the place of every attention on unsplit heads."""
    fuse_graph(model)
    count = 0
    for node in [n for n in model.graph if n.op_type == "Attention" and not n.domain]:
        tape = ir.tape.Tape()
        result = build(model, tape, node) if "q_num_heads" in node.attributes else None
        if result is None:
            continue
        model.graph.insert_before(node, tape.nodes)
        supersede(node, result)
        count += 1
    return _done(model, count)


def _multi_head(model: ir.Model, tape: ir.tape.Tape, node: ir.Node) -> ir.Value | None:
    heads, shared = (node.attributes[f"{kind}_num_heads"].as_int() for kind in ("q", "kv"))
    if heads != shared:
        return None
    bias = None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        zero = add_constant(model.graph, "attended", np.array(0, np.float32))
        never = add_constant(model.graph, "not_attended", np.array(-3.4e38, np.float32))
        bias = tape.op("Where", [node.inputs[3], zero, never])
    values = {"num_heads": heads, **_scale(node)}
    inputs = [*node.inputs[:3], None, None, bias]
    return tape.op("MultiHeadAttention", inputs, values, domain=MICROSOFT)


def _group_query(model: ir.Model, tape: ir.tape.Tape, node: ir.Node) -> ir.Value | None:
    mask = next(value for value in model.graph.inputs if value.name == ATTENTION_MASK)
    one, axis = add_constant(model.graph, "int_1", np.array(1)), add_integers(model.graph, 1)
    lengths = tape.op("ReduceSum", [mask, axis], {"keepdims": 0})
    lengths = tape.op("Cast", [tape.op("Sub", [lengths, one])], {"to": ir.DataType.INT32})
    total = tape.op("Squeeze", [tape.op("Shape", [mask], {"start": 1})])
    total = tape.op("Cast", [total], {"to": ir.DataType.INT32})
    values = {
        "num_heads": node.attributes["q_num_heads"].as_int(),
        "kv_num_heads": node.attributes["kv_num_heads"].as_int(),
        **_scale(node),
    }
    inputs = [*node.inputs[:3], None, None, lengths, total]
    results = tape.op_multi_out(
        "GroupQueryAttention", inputs, values, domain=MICROSOFT, num_outputs=3
    )
    return results[0]


def _scale(node: ir.Node) -> dict[str, float]:
    scale = node.attributes.get("scale")
    return {} if scale is None else {"scale": scale.as_float()}


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
    "GroupQueryAttention": group_query_attention,
    "Microsoft's RotaryEmbedding": microsoft_rotary,
    "fused residual norms": skip_norms,
    "bias in the GELU": bias_gelu,
    "QuickGelu": quick_gelu,
}
