"""How far below zero an activation function can go, found by running it.

The input of a down projection is often the result of GELU or ReLU: next to nothing of it is
negative, so half of the codes of a symmetric quantizer would stand for values that never come.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

# Operators that treat every value by itself.
_ELEMENTWISE = {
    *("Abs", "Add", "Clip", "Div", "Elu", "Erf", "Exp", "FastGelu", "Gelu", "HardSigmoid"),
    *("LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "QuickGelu", "Relu", "Sigmoid"),
    *("Softplus", "Sqrt", "Sub", "Swish", "Tanh"),
}
_REACH = 30.0  # every activation function in use is monotonic beyond
_POINTS = 60001
_FAR = np.array([s * 10.0**e for s in (-1, 1) for e in (2, 3, 4)], np.float32)
_STEP = 1024  # bounds are whole multiples of 1/1024: the same on every machine


def lower_bound(value: ir.Value) -> float | None:
    """The least that `value` can be as a function of one other value, rounded down.

    None where it is not the result of elementwise operators on one single value (a gated product
    has two), or where it falls without end.
    """
    nodes, leaf = _function(value)
    if leaf is None or not nodes:
        return None
    values = _run(nodes, leaf, value)
    near, far = values[: -_FAR.size], values[-_FAR.size :]
    lowest = float(near.min())
    if not np.isfinite(lowest) or not far.min() >= lowest:
        return None  # it goes on falling: LeakyReLU, a plain factor
    return min(float(np.floor(lowest * _STEP)) / _STEP, 0.0)


def _function(value: ir.Value) -> tuple[list[ir.Node], ir.Value | None]:
    """The elementwise nodes behind `value` in order, and the one value that they start from."""
    nodes: list[ir.Node] = []
    leaves: set[ir.Value] = set()
    seen: set[ir.Value] = set()

    def visit(current: ir.Value) -> None:
        if current in seen or _is_number(current):
            return
        seen.add(current)
        node = current.producer()
        if node is None or node.op_type not in _ELEMENTWISE or _has_vector(node):
            leaves.add(current)
            return
        for operand in node.inputs:
            if operand is not None:
                visit(operand)
        nodes.append(node)

    visit(value)
    return nodes, leaves.pop() if len(leaves) == 1 else None


def _is_number(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.size == 1


def _has_vector(node: ir.Node) -> bool:
    """Whether a constant of more than one number takes part: then channels differ."""
    constants = (value.const_value for value in node.inputs if value is not None)
    return any(constant is not None and constant.size != 1 for constant in constants)


def _run(nodes: list[ir.Node], leaf: ir.Value, result: ir.Value) -> NDArray[np.float32]:
    """What the nodes make of `_POINTS` numbers in place of `leaf`."""
    copies: dict[ir.Value, ir.Value] = {}
    start = ir.Value(
        name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([_POINTS + _FAR.size])
    )
    copies[leaf] = start
    constants = []
    for node in nodes:
        for operand in node.inputs:
            if operand is not None and operand not in copies:
                copy = ir.Value(name=f"c{len(copies)}", const_value=operand.const_value)
                copy.type = operand.type
                copies[operand] = copy
                constants.append(copy)
        for output in node.outputs:
            copies[output] = ir.Value(name=f"v{len(copies)}")
    copied = [
        ir.Node(
            node.domain,
            node.op_type,
            [None if operand is None else copies[operand] for operand in node.inputs],
            list(node.attributes.values()),
            outputs=[copies[output] for output in node.outputs],
        )
        for node in nodes
    ]
    end = copies[result]
    end.type, end.shape = start.type, start.shape
    graph = nodes[0].graph
    assert isinstance(graph, ir.Graph)
    function = ir.Graph(
        [start], [end], nodes=copied, initializers=constants, opset_imports=graph.opset_imports
    )
    model = ir.Model(function, ir_version=10)
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    near = np.linspace(-_REACH, _REACH, _POINTS, dtype=np.float32)
    points = np.concatenate([near, _FAR])
    (values,) = session.run(None, {"x": points})
    return np.asarray(values, np.float32)
