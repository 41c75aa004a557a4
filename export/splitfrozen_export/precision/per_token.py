"""Matrix products in int8 with one activation scale per token: a pass over an ONNX graph.

A token's scale comes from its own row only, and the product is integer arithmetic on that row.
So a token's result depends neither on its batch neighbours, nor on padding, nor on later tokens.
(One scale per tensor, as in stock dynamic quantization, loses all three.)

The products are exact on ARM and on x86 with VNNI. Older x86 adds pairs of uint8 * int8 products
in saturating int16, so there an extreme pair of activations and weights may be clipped: the
result is a little less precise, and differs from machine to machine, but not from batch to batch.
Weights of 7 bits (`reduce_range`) never reach that limit: 2 * 255 * 64 < 2**15.

    x [.., K] -> max|row| / 127 -> QuantizeLinear per row, uint8 around 128
              -> MatMulIntegerToFloat with int8 weights [K, M] -> * the token's scale [.., 1]

What comes out of GELU or ReLU is never far below zero. It is lifted by its lower bound and coded
in all 255 steps from 0 on, which takes no more time; what the lift adds to the product is the
same for every token, and taken off with the bias:

    x -> + lift -> max(row) / 255 -> QuantizeLinear per row, uint8 from 0 on
      -> MatMulIntegerToFloat -> * the token's scale -> + bias - lift @ weights

Products with the same input (query, key, value) share one quantization of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitfrozen_export.graph.edits import add_constant, add_integers, supersede
from splitfrozen_export.precision.lower_bounds import lower_bound
from splitfrozen_export.precision.products import MICROSOFT, Product

FULL_RANGE = 127  # largest magnitude of a coded weight
REDUCED_RANGE = 64
_SMALLEST_SCALE = np.array(1e-30, np.float32)  # a row of zeros must not divide by zero
_CHUNK = 1 << 22  # values that are coded at a time


@dataclass(frozen=True)
class Rows:
    """A quantized input, flattened to one row per token."""

    coded: ir.Value  # uint8 [tokens, K]
    scale: ir.Value  # float32 [.., 1]
    zero_point: ir.Value  # uint8: the code of 0
    extent: Hashable  # inputs with the same one have the same shape before the last axis
    lead: ir.Value  # int64: the shape of the input without its last axis
    lift: NDArray[np.float32] | None  # [K] or one number: what was added to the input


@dataclass
class Inputs:
    """What the products of one graph share."""

    rows: dict[ir.Value, Rows] = field(default_factory=dict)
    # Arithmetic on shapes is most of a graph's nodes, and each costs about a microsecond a run.
    shapes: dict[Hashable, ir.Value] = field(default_factory=dict)

    def shape(self, key: Hashable, make: Callable[[], ir.Value]) -> ir.Value:
        """The value of this key; products are replaced in the order of the graph, so the first
        one's nodes stand before all that use them."""
        if key not in self.shapes:
            self.shapes[key] = make()
        return self.shapes[key]


@dataclass(frozen=True)
class _Weight:
    """A quantized matrix."""

    coded: NDArray[np.int8]  # [K, M]
    scale: NDArray[np.float32]  # [M]


def quantize_per_token(
    graph: ir.Graph, product: Product, inputs: Inputs, *, limit: int = FULL_RANGE
) -> None:
    """Replace one product by its int8 form; `inputs` holds those quantized so far."""
    weight = _Weight(*quantize_weight(product.weight.read(), limit))
    tape = ir.tape.Tape()
    source = product.source
    if source not in inputs.rows:
        inputs.rows[source] = _quantize_rows(graph, tape, inputs, source, len(weight.coded))
    result = _multiply(graph, tape, inputs, inputs.rows[source], product.key, weight)
    if product.bias is not None:
        result = tape.op("Add", [result, product.bias])
    lift = inputs.rows[source].lift
    if lift is not None and lift.any():
        surplus = -_lifted(lift, weight)
        if not _add_to_bias(graph, product, surplus):
            result = tape.op("Add", [result, add_constant(graph, f"{product.key}_lift", surplus)])
    graph.insert_before(product.node, tape.nodes)
    supersede(product.node, result)


def quantize_weight(
    weight: NDArray[np.float32], limit: int = FULL_RANGE
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Code float32 [K, M] as signed int8 within +-limit, one float32 scale per column.

    Signed, because the unsigned product runs at about half the speed. Works on a piece at a
    time, so it needs no second copy of a large matrix.
    """
    inputs, outputs = weight.shape
    step = max(1, _CHUNK // max(outputs, 1))
    pieces = [slice(start, start + step) for start in range(0, inputs, step)]
    largest = np.zeros(outputs, np.float32)
    for piece in pieces:
        np.maximum(largest, np.abs(weight[piece]).max(axis=0), out=largest)
    scale = largest / np.float32(limit)
    scale[scale == 0] = 1
    coded = np.empty(weight.shape, np.int8)
    for piece in pieces:
        coded[piece] = np.clip(np.rint(weight[piece] / scale), -limit, limit)
    return coded, scale


def _quantize_rows(
    graph: ir.Graph, tape: ir.tape.Tape, inputs: Inputs, source: ir.Value, width: int
) -> Rows:
    extent, lift = _extent(source), _lift(source)
    lead = inputs.shape(("lead", extent), lambda: tape.op("Shape", [source], {"end": -1}))
    if lift is None:
        magnitude, steps, zero = tape.op("Abs", [source]), 127, 128
    else:
        magnitude, steps, zero = source, 255, 0
        if lift.any():
            constant = add_constant(graph, f"{source.name}_lift", lift)
            source = magnitude = tape.op("Add", [source, constant])
    limit = add_constant(graph, f"row_steps_{steps}", np.array(steps, np.float32))
    smallest = add_constant(graph, "row_smallest_scale", _SMALLEST_SCALE)
    zero_point = add_constant(graph, f"row_zero_{zero}", np.array(zero, np.uint8))
    largest = tape.op("ReduceMax", [magnitude, add_integers(graph, -1)], {"keepdims": 1})
    scale = tape.op("Max", [tape.op("Div", [largest, limit]), smallest])
    flat = tape.op("Reshape", [source, add_integers(graph, -1, width)])
    flat_scale = tape.op("Reshape", [scale, add_integers(graph, -1)])
    zero_points = inputs.shape(
        ("zero points", zero, extent),
        lambda: tape.op("Expand", [zero_point, tape.op("Shape", [flat_scale])]),
    )
    coded = tape.op("QuantizeLinear", [flat, flat_scale, zero_points], {"axis": 0})
    return Rows(coded, scale, zero_point, extent, lead, lift)


def _extent(value: ir.Value) -> Hashable:
    """The axes before the last one by their traced names and sizes; else the value itself."""
    sizes = None if value.shape is None else tuple(value.shape)[:-1]
    if not sizes or any(isinstance(n, ir.SymbolicDim) and n.value is None for n in sizes):
        return value
    return tuple(str(n.value) if isinstance(n, ir.SymbolicDim) else n for n in sizes)


def _multiply(
    graph: ir.Graph, tape: ir.tape.Tape, inputs: Inputs, rows: Rows, name: str, weight: _Weight
) -> ir.Value:
    operands = [
        rows.coded,
        add_constant(graph, f"{name}_int8", weight.coded),
        add_constant(graph, "row_unit", np.array(1, np.float32)),
        add_constant(graph, f"{name}_scale", weight.scale),
        rows.zero_point,
    ]
    flat = tape.op("MatMulIntegerToFloat", operands, domain=MICROSOFT)
    width = weight.coded.shape[1]
    shape = inputs.shape(
        ("shape", rows.extent, width),
        lambda: tape.op("Concat", [rows.lead, add_integers(graph, width)], {"axis": 0}),
    )
    return tape.op("Mul", [tape.op("Reshape", [flat, shape]), rows.scale])


def _lift(source: ir.Value) -> NDArray[np.float32] | None:
    """What to add to an input so that it is never negative; None where it has no near bound."""
    node = source.producer()
    if node is not None and node.op_type == "Mul":  # SmoothQuant's factors, all positive
        for value, factor in (node.inputs, reversed(node.inputs)):
            tensor = None if factor is None else factor.const_value
            if tensor is not None and tensor.size > 1 and value is not None:
                bound = lower_bound(value)
                factors = np.asarray(tensor.numpy(), np.float32)
                if bound is None or factors.ndim != 1 or not (factors > 0).all():
                    return None
                return np.float32(-bound) * factors
    bound = lower_bound(source)
    return None if bound is None else np.array(-bound, np.float32)


def _lifted(lift: NDArray[np.float32], weight: _Weight) -> NDArray[np.float32]:
    """lift @ weights, float32 [M], summed in float64 in a fixed order."""
    inputs, outputs = weight.coded.shape
    factors = np.broadcast_to(lift.astype(np.float64), (inputs,))
    total = np.zeros(outputs)
    step = max(1, _CHUNK // max(outputs, 1))
    for start in range(0, inputs, step):
        piece = slice(start, start + step)
        total += (factors[piece, None] * weight.coded[piece]).sum(axis=0)
    return (total * weight.scale).astype(np.float32)


def _add_to_bias(graph: ir.Graph, product: Product, surplus: NDArray[np.float32]) -> bool:
    """Let a constant bias that is added right after the product take `surplus` in, if it can."""
    uses = product.node.outputs[0].uses()
    if len(uses) != 1 or product.node.outputs[0].is_graph_output():
        return False
    ((node, index),) = uses
    if node.op_type != "Add" or node.domain:
        return False
    bias = node.inputs[1 - index]
    tensor = None if bias is None else bias.const_value
    if tensor is None or tuple(tensor.shape) != surplus.shape:
        return False
    total = np.asarray(tensor.numpy(), np.float32) + surplus
    node.replace_input_with(1 - index, add_constant(graph, f"{product.key}_bias", total))
    return True
