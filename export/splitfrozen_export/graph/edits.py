"""Edits of an ONNX graph that the passes share: constants in, nodes out, leftovers gone.

The passes work on `onnx_ir`, whose tensors stay where they are (a torch parameter, a mapped
file) until their values are asked for: a graph of gigabytes is edited without copying it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common


@dataclass(frozen=True)
class Matrix:
    """A constant float32 matrix whose values are read when they are asked for."""

    tensor: ir.TensorProtocol
    transposed: bool

    def read(self) -> NDArray[np.float32]:
        """The values, rows and columns as the product uses them."""
        array = np.asarray(self.tensor.numpy(), np.float32)
        return array.T if self.transposed else array


def lift_constants(model: ir.Model) -> None:
    """Turn Constant nodes into initializers, so that a pass has one place to look."""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def drop_unused(model: ir.Model) -> None:
    """Remove nodes and initializers that no output needs, and operator sets without nodes."""
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Register `array` as an initializer; an existing one of that name is returned as it is.

    Callers put into the name what distinguishes two values; ValueError when one did not.
    """
    if (known := graph.initializers.get(name)) is not None:
        held = known.const_value
        if held is None or not _same(held.numpy(), array):
            raise ValueError(f"the graph has another constant {name!r} already")
        return known
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


def add_integers(graph: ir.Graph, *numbers: int) -> ir.Value:
    """Register an int64 vector, as shape and axes inputs take it."""
    name = "ints_" + "_".join(str(number) for number in numbers).replace("-", "m")
    return add_constant(graph, name, np.array(numbers, np.int64))


def find_matrix(value: ir.Value | None) -> Matrix | None:
    """The 2-D float32 constant behind `value`, looking through Transposes; else None."""
    if value is None:
        return None
    node = value.producer()
    if node is not None:
        return _flipped(find_matrix(node.inputs[0])) if _transposes_matrix(node) else None
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
        return None
    return Matrix(tensor, transposed=False)


def is_flip(node: ir.Node) -> bool:
    """Whether the node transposes a constant matrix."""
    source = node.inputs[0] if node.inputs else None
    if source is None or source.const_value is None or not source.is_initializer():
        return False
    return len(source.const_value.shape) == 2 and _transposes_matrix(node)


def fold_flips(model: ir.Model) -> None:
    """Let a matrix that is read transposed only be stored so, under its own name.

    Its values are still read when they are asked for. A matrix that is also read as it is keeps
    its Transpose (a head that shares the token table).
    """
    for node in list(model.graph):
        if not is_flip(node) or node.outputs[0].is_graph_output():
            continue
        (matrix,) = node.inputs
        assert matrix is not None and matrix.const_value is not None
        if len(matrix.uses()) > 1 or matrix.is_graph_output():
            continue
        matrix.const_value = _transposed(matrix.const_value)
        matrix.shape = ir.Shape(matrix.const_value.shape.numpy())
        ir.convenience.replace_all_uses_with(node.outputs[0], matrix)
        model.graph.remove(node, safe=True)


def _transposed(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    def read() -> ir.TensorProtocol:
        return ir.tensor(tensor.numpy().T, dtype=tensor.dtype)

    shape = ir.Shape(reversed(tensor.shape.numpy()))
    return ir.LazyTensor(read, dtype=tensor.dtype, shape=shape, name=tensor.name)


def _transposes_matrix(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and not node.domain and _permutation(node) == (1, 0)


def _flipped(matrix: Matrix | None) -> Matrix | None:
    return None if matrix is None else Matrix(matrix.tensor, transposed=not matrix.transposed)


def _permutation(node: ir.Node) -> tuple[int, ...]:
    attribute = node.attributes.get("perm")
    return (1, 0) if attribute is None else tuple(attribute.as_ints())


def supersede(node: ir.Node, result: ir.Value) -> None:
    """Let `result` stand where the only output of `node` stood, and remove `node`."""
    (old,) = node.outputs
    result.shape, result.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    if result.is_graph_output():
        old.name, result.name = None, old.name
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.remove(node, safe=True)
