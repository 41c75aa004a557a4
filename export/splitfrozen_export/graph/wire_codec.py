"""The graph ends in the int8 wire codec: a pass that adds `hidden_q` and `scale` to `hidden`.

The nodes do in ONNX exactly what `splitfrozen.quantize.quantize_int8` does in numpy, so a client
in any language sends the same bytes without a quantizer of its own. Values that are not finite
give no error in a graph: a client must look at `hidden` and `scale` and refuse them itself.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from splitfrozen.graph import HIDDEN, HIDDEN_Q, SCALE
from splitfrozen.quantize import GROUP, scale_width
from splitfrozen_export.graph.edits import add_constant, add_integers


def append_int8_codec(model: ir.Model, hidden_size: int) -> None:
    """Add the outputs int8 `hidden_q` [B, T, d] and float16 `scale` [B, T, ceil(d/64)]."""
    graph = model.graph
    (hidden,) = graph.outputs
    assert hidden.name == HIDDEN
    tape = ir.tape.Tape()
    grouped = _group(graph, tape, hidden, hidden_size)
    scale = _scale(graph, tape, grouped)
    coded = _code(graph, tape, grouped, scale)
    flat = _ungroup(graph, tape, coded, hidden, hidden_size)
    outputs = [
        tape.op("Cast", [flat], {"to": ir.DataType.INT8.value}),
        tape.op("Squeeze", [scale, add_integers(graph, -1)]),
    ]
    graph.extend(tape.nodes)
    _declare(outputs[0], HIDDEN_Q, ir.DataType.INT8, hidden, hidden_size)
    _declare(outputs[1], SCALE, ir.DataType.FLOAT16, hidden, scale_width(hidden_size))
    graph.outputs.extend(outputs)


def _group(graph: ir.Graph, tape: ir.tape.Tape, hidden: ir.Value, width: int) -> ir.Value:
    """[B, T, d] -> [B, T, groups, 64]; a short last group is filled up with zeros."""
    missing = scale_width(width) * GROUP - width
    if missing:
        pads = add_integers(graph, 0, 0, 0, 0, 0, missing)
        hidden = tape.op("Pad", [hidden, pads])
    return tape.op("Reshape", [hidden, add_integers(graph, 0, 0, scale_width(width), GROUP)])


def _scale(graph: ir.Graph, tape: ir.tape.Tape, grouped: ir.Value) -> ir.Value:
    """Float16 [B, T, groups, 1]: the largest magnitude / 127, rounded half to even."""
    limit = add_constant(graph, "wire_limit", np.array(127, np.float32))
    largest = tape.op(
        "ReduceMax", [tape.op("Abs", [grouped]), add_integers(graph, -1)], {"keepdims": 1}
    )
    return tape.op("Cast", [tape.op("Div", [largest, limit])], {"to": ir.DataType.FLOAT16.value})


def _code(graph: ir.Graph, tape: ir.tape.Tape, grouped: ir.Value, scale: ir.Value) -> ir.Value:
    """Float32 [B, T, groups, 64] of whole numbers within -127..127."""
    zero = add_constant(graph, "wire_zero", np.array(0, np.float32))
    one = add_constant(graph, "wire_one", np.array(1, np.float32))
    lowest = add_constant(graph, "wire_lowest", np.array(-127, np.float32))
    highest = add_constant(graph, "wire_limit", np.array(127, np.float32))
    factor = tape.op("Cast", [scale], {"to": ir.DataType.FLOAT.value})
    divisor = tape.op("Where", [tape.op("Equal", [factor, zero]), one, factor])
    rounded = tape.op("Round", [tape.op("Div", [grouped, divisor])])
    return tape.op("Clip", [rounded, lowest, highest])


def _ungroup(
    graph: ir.Graph, tape: ir.tape.Tape, coded: ir.Value, hidden: ir.Value, width: int
) -> ir.Value:
    padded = scale_width(width) * GROUP
    flat = tape.op("Reshape", [coded, add_integers(graph, 0, 0, padded)])
    if padded == width:
        return flat
    bounds = [add_integers(graph, number) for number in (0, width, 2)]
    return tape.op("Slice", [flat, *bounds])


def _declare(value: ir.Value, name: str, dtype: ir.DataType, hidden: ir.Value, width: int) -> None:
    value.name = name
    value.dtype = dtype
    if hidden.shape is not None:
        value.shape = ir.Shape([hidden.shape[0], hidden.shape[1], width])
