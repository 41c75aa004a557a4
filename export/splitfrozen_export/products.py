"""Matrix products in int8 with one activation scale per token: a pass over an ONNX graph.

A token's scale comes from its own row only, and the product is integer arithmetic on that row.
So a token's result depends neither on its batch neighbours, nor on padding, nor on later tokens.
(One scale per tensor, as in stock dynamic quantization, loses all three.)

The products are exact on ARM and on x86 with VNNI. Older x86 adds pairs of uint8 * int8 products
in saturating int16, so there an extreme pair of activations and weights may be clipped: the
result is a little less precise, and differs from machine to machine, but not from batch to batch.

    x [.., K] -> max|row| / 127 -> QuantizeLinear per row, uint8 around 128
              -> MatMulIntegerToFloat with int8 weights [K, M] -> * the token's scale [.., 1]

Products with the same input (query, key, value) share one quantization of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitfrozen_export.edits import Matrix, add_constant, add_integers, find_matrix, supersede

MICROSOFT = "com.microsoft"
_ZERO_POINT = np.array(128, np.uint8)
_SMALLEST_SCALE = np.array(1e-30, np.float32)  # a row of zeros must not divide by zero


@dataclass(frozen=True)
class Product:
    """One product of activations with a constant matrix."""

    node: ir.Node  # MatMul, or Gemm with the bias as third input
    weight: Matrix  # [K, M]
    bias: ir.Value | None  # [M]


@dataclass(frozen=True)
class _Rows:
    """A quantized input, flattened to one row per token."""

    coded: ir.Value  # uint8 [tokens, K]
    scale: ir.Value  # float32 [.., 1]
    lead: ir.Value  # int64: the shape of the input without its last axis


def find_products(graph: ir.Graph) -> list[Product]:
    """All products of `graph` with a constant float32 matrix, in order of execution."""
    found = (_as_product(node) for node in graph)
    return [product for product in found if product is not None]


def quantize_products(model: ir.Model) -> int:
    """Replace every product with a constant matrix by its int8 form.

    Returns how many of them depend on the tokens. (DeBERTa also projects its table of relative
    positions; that comes out as int8 too, but is the same for every input.)
    """
    products = find_products(model.graph)
    varying = _downstream(model.graph)
    count = sum(product.node.outputs[0] in varying for product in products)
    rows: dict[ir.Value, _Rows] = {}
    for product in products:
        _replace(model.graph, product, rows)
    if products:
        model.graph.opset_imports[MICROSOFT] = 1
    return count


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Code float32 [K, M] as signed int8 with one float32 scale per column (output channel).

    Signed, because the unsigned product runs at about half the speed.
    """
    scale = np.abs(weight).max(axis=0) / np.float32(127)
    scale[scale == 0] = 1
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def _as_product(node: ir.Node) -> Product | None:
    if node.op_type not in ("MatMul", "Gemm") or node.domain:
        return None
    if find_matrix(node.inputs[0]) is not None:
        return None  # both sides are constants: nothing of it depends on a token
    weight = find_matrix(node.inputs[1])
    if weight is None:
        return None
    if node.op_type == "MatMul":
        return Product(node, weight, None)
    return _gemm(node, weight)


def _gemm(node: ir.Node, weight: Matrix) -> Product | None:
    plain = all(_number(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
    if not plain or _number(node, "transA", 0) != 0:
        return None
    if _number(node, "transB", 0) != 0:
        weight = Matrix(weight.tensor, transposed=not weight.transposed)
    return Product(node, weight, node.inputs[2] if len(node.inputs) > 2 else None)


def _downstream(graph: ir.Graph) -> set[ir.Value]:
    """Every value that depends on an input of the graph."""
    reached = set(graph.inputs)
    for node in graph:
        if not reached.isdisjoint(value for value in node.inputs if value is not None):
            reached.update(node.outputs)
    return reached


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)


def _replace(graph: ir.Graph, product: Product, rows: dict[ir.Value, _Rows]) -> None:
    node = product.node
    source, matrix = node.inputs[:2]
    assert source is not None and matrix is not None
    weight = product.weight.read()
    tape = ir.tape.Tape()
    if source not in rows:
        rows[source] = _quantize_rows(graph, tape, source, weight.shape[0])
    result = _multiply(graph, tape, rows[source], f"{matrix.name}_columns", weight)
    if product.bias is not None:
        result = tape.op("Add", [result, product.bias])
    graph.insert_before(node, tape.nodes)
    supersede(node, result)


def _quantize_rows(graph: ir.Graph, tape: ir.tape.Tape, source: ir.Value, width: int) -> _Rows:
    limit = add_constant(graph, "row_limit", np.array(127, np.float32))
    smallest = add_constant(graph, "row_smallest_scale", _SMALLEST_SCALE)
    zero_point = add_constant(graph, "row_zero_point", _ZERO_POINT)
    largest = tape.op(
        "ReduceMax", [tape.op("Abs", [source]), add_integers(graph, -1)], {"keepdims": 1}
    )
    scale = tape.op("Max", [tape.op("Div", [largest, limit]), smallest])
    flat = tape.op("Reshape", [source, add_integers(graph, -1, width)])
    flat_scale = tape.op("Reshape", [scale, add_integers(graph, -1)])
    zero_points = tape.op("Expand", [zero_point, tape.op("Shape", [flat_scale])])
    coded = tape.op("QuantizeLinear", [flat, flat_scale, zero_points], {"axis": 0})
    return _Rows(coded, scale, tape.op("Shape", [source], {"end": -1}))


def _multiply(
    graph: ir.Graph, tape: ir.tape.Tape, rows: _Rows, name: str, weight: NDArray[np.float32]
) -> ir.Value:
    coded, scale = quantize_weight(weight)
    inputs = [
        rows.coded,
        add_constant(graph, f"{name}_int8", coded),
        add_constant(graph, "row_unit", np.array(1, np.float32)),
        add_constant(graph, f"{name}_scale", scale),
        add_constant(graph, "row_zero_point", _ZERO_POINT),
    ]
    flat = tape.op("MatMulIntegerToFloat", inputs, domain=MICROSOFT)
    shape = tape.op("Concat", [rows.lead, add_integers(graph, weight.shape[1])], {"axis": 0})
    return tape.op("Mul", [tape.op("Reshape", [flat, shape]), rows.scale])
