"""The matrix products of a graph whose one side is a constant: what a precision replaces.

Each is known by its layer, the module path inside the base model that its weight belongs to:
`h.0.mlp.c_proj` for the initializer `model.h.0.mlp.c_proj.weight`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from splitfrozen_export.graph.edits import Matrix, find_matrix

MICROSOFT = "com.microsoft"
_SEGMENT_PREFIX = "model."  # the base model inside a DeviceSegment
_ATTENTION = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "Softmax")


@dataclass(frozen=True)
class Product:
    """One product of activations with a constant matrix."""

    node: ir.Node  # MatMul, or Gemm with the bias as third input
    weight: Matrix  # [K, M]
    bias: ir.Value | None  # [M]
    parameter: ir.Value  # the initializer that holds the weight, [K, M] or [M, K]
    varies: bool  # whether it depends on the tokens

    @property
    def layer(self) -> str:
        """Module path of the layer, e.g. `encoder.layer.0.output.dense`."""
        return layer_name(str(self.parameter.name))

    @property
    def source(self) -> ir.Value:
        """The activations [.., K]."""
        source = self.node.inputs[0]
        assert source is not None
        return source

    @property
    def key(self) -> str:
        """A name for what is derived from the weight as this product uses it."""
        return f"{self.parameter.name}.T" if self.weight.transposed else str(self.parameter.name)


def layer_name(parameter: str) -> str:
    """The module path that a weight's name in the graph stands for."""
    return parameter.removeprefix(_SEGMENT_PREFIX).removesuffix(".weight")


def find_products(graph: ir.Graph) -> list[Product]:
    """All products of `graph` with a constant float32 matrix, in order of execution.

    Some vary with no token: DeBERTa also projects its table of relative positions.
    """
    varying = _downstream(graph.inputs, graph)
    found = (_as_product(node, node.outputs[0] in varying) for node in graph)
    return [product for product in found if product is not None]


def attention_products(graph: ir.Graph, products: Iterable[Product]) -> set[ir.Node]:
    """Those products that make queries, keys and values, or take what attention gives.

    Decided by the graph: the products next to an attention core (a Softmax or a fused operator),
    with no other product between. All other products of a block are its MLP.
    """
    borders = {product.node for product in products}
    cores = [node for node in graph if node.op_type in _ATTENTION]
    found: set[ir.Node] = set()
    for core in cores:
        reached = _until(core, borders, forward=True)
        found |= reached & borders
        for node in {core, *reached} - borders:
            found |= _until(node, borders, forward=False) & borders
    return found


def _until(start: ir.Node, borders: set[ir.Node], *, forward: bool) -> set[ir.Node]:
    """The nodes that `start` leads to, one way, up to and with the first border on each path."""
    reached: set[ir.Node] = set()
    waiting = [start]
    while waiting:
        node = waiting.pop()
        neighbours = node.successors() if forward else node.predecessors()
        for neighbour in neighbours:
            if neighbour not in reached:
                reached.add(neighbour)
                if neighbour not in borders:
                    waiting.append(neighbour)
    return reached


def _as_product(node: ir.Node, varies: bool) -> Product | None:
    if node.op_type not in ("MatMul", "Gemm") or node.domain:
        return None
    if find_matrix(node.inputs[0]) is not None:
        return None  # both sides are constants: nothing of it depends on a token
    weight = find_matrix(node.inputs[1])
    if weight is None:
        return None
    parameter = _parameter(node.inputs[1])
    if node.op_type == "MatMul":
        return Product(node, weight, None, parameter, varies)
    plain = all(_number(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
    if not plain or _number(node, "transA", 0) != 0:
        return None
    if _number(node, "transB", 0) != 0:
        weight = Matrix(weight.tensor, transposed=not weight.transposed)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return Product(node, weight, bias, parameter, varies)


def _parameter(value: ir.Value | None) -> ir.Value:
    """The initializer behind a matrix, through its Transposes."""
    assert value is not None
    node = value.producer()
    return value if node is None else _parameter(node.inputs[0])


def _downstream(sources: Iterable[ir.Value], graph: ir.Graph) -> set[ir.Value]:
    """Every value that depends on one of `sources`."""
    reached = set(sources)
    for node in graph:
        if not reached.isdisjoint(value for value in node.inputs if value is not None):
            reached.update(node.outputs)
    return reached


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)
