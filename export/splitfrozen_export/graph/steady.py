"""The same bits on every machine, as far as floats allow: a pass over an int8 graph.

Integer products are exact anywhere. What stands between them is floating point, and a sum of
floats depends on the order that a machine's vector unit takes. The last bit of a sum would not
matter, but a norm divides a whole token by it and a quantization scales a whole token by its
maximum: one last bit then moves hundreds of values, and some of them tip to another code.

So each such statistic of a token is rounded to its first 10 bits: the mean and the deviation of a
norm, and the scale of a quantization. What differed in a last bit is then the same again, but for
about one token in ten thousand, and a product forgets the noise of what came before it. The
rounding changes a token's length by at most 1 in 1,000, far below the error of its codes.

The norms are written out to get at their statistics. That also makes them faster than ONNX
Runtime's own on the CPU. benchmarks/platforms.py counts what still differs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from splitfrozen_export.graph.edits import add_constant, add_integers, supersede

_CENTRED = "LayerNormalization"
_NORMS = (_CENTRED, "RMSNormalization", "SimplifiedLayerNormalization")
_KEPT_BITS = 10  # of 24; fewer would cost accuracy, more would let more noise through


def steady_graph(model: ir.Model) -> int:
    """Round the statistics of every token, in place; return how many nodes got rounded ones.

    For graphs with products per token; others have no coded activation that could tip.
    """
    graph = model.graph
    nodes = list(graph)
    means = [node for node in nodes if node.op_type == "ReduceMean" and not node.domain]
    norms = [node for node in nodes if _is_norm(node)]
    scales = {scale: None for node in nodes if (scale := _row_scale(node)) is not None}
    for value in (*(node.outputs[0] for node in means), *scales):
        _round_in_place(graph, value)
    for node in norms:
        _write_out(graph, node)
    return len(means) + len(norms) + len(scales)


def _is_norm(node: ir.Node) -> bool:
    """Whether the node is a norm over the last axis of which only the result is used."""
    if node.op_type not in _NORMS or node.inputs[0] is None or node.inputs[1] is None:
        return False
    axis, shape = node.attributes.get("axis"), node.outputs[0].shape
    last = axis is None or axis.as_int() == -1
    last = last or (axis is not None and shape is not None and axis.as_int() == len(shape) - 1)
    return last and not any(output.uses() for output in node.outputs[1:])


def _write_out(graph: ir.Graph, node: ir.Node) -> None:
    """(x - mean) / sqrt(mean square + epsilon) * weight + bias, with rounded statistics."""
    source, weight = node.inputs[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    epsilon = node.attributes.get("epsilon")
    least = np.array(1e-5 if epsilon is None else epsilon.as_float(), np.float32)
    tape = ir.tape.Tape()
    last = add_integers(graph, -1)
    if node.op_type == _CENTRED:
        mean = tape.op("ReduceMean", [source, last], {"keepdims": 1})
        source = tape.op("Sub", [source, _rounded(graph, tape, mean)])
    square = tape.op("ReduceMean", [tape.op("Mul", [source, source]), last], {"keepdims": 1})
    square = tape.op("Add", [square, add_constant(graph, f"norm_epsilon_{least}", least)])
    deviation = _rounded(graph, tape, tape.op("Sqrt", [square]))
    one = add_constant(graph, "norm_one", np.array(1, np.float32))
    factor = tape.op("Div", [one, deviation])  # [.., 1]; many products beat as many divisions
    result = tape.op("Mul", [tape.op("Mul", [source, factor]), weight])
    if bias is not None:
        result = tape.op("Add", [result, bias])
    graph.insert_before(node, tape.nodes)
    for output in node.outputs[1:]:
        output.name = None
    node.resize_outputs(1)
    supersede(node, result)


def _row_scale(node: ir.Node) -> ir.Value | None:
    """The scales [.., 1] behind a quantization with one scale per token; else None."""
    if node.op_type != "QuantizeLinear" or node.domain or len(node.inputs) < 2:
        return None
    flat = node.inputs[1]
    reshape = None if flat is None else flat.producer()
    if reshape is None or reshape.op_type != "Reshape":
        return None
    return reshape.inputs[0]


def _round_in_place(graph: ir.Graph, value: ir.Value) -> None:
    """Let all that reads `value` read it rounded."""
    node = value.producer()
    assert node is not None
    uses = list(value.uses())
    tape = ir.tape.Tape()
    rounded = _rounded(graph, tape, value)
    rounded.shape, rounded.type = value.shape, value.type
    graph.insert_after(node, tape.nodes)
    for user, index in uses:
        user.replace_input_with(index, rounded)


def _rounded(graph: ir.Graph, tape: ir.tape.Tape, value: ir.Value) -> ir.Value:
    """x + x * 2**n - x * 2**n, each step rounded: only the first 24 - n bits of x remain."""
    factor = add_constant(graph, "steady_factor", np.array(2.0 ** (24 - _KEPT_BITS), np.float32))
    large = tape.op("Mul", [value, factor])
    return tape.op("Sub", [tape.op("Add", [value, large]), large])
