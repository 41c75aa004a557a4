"""The wire codec as graph nodes, for activations of at most 64 channels: one group."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from splitfrozen import graph


def codec_constants() -> list[onnx.TensorProto]:
    """What `codec_nodes` refers to, besides `last`, an axis of -1."""
    numbers = {"limit": 127.0, "one": 1.0, "zero": 0.0, "low": -127.0}
    return [_scalar(name, value) for name, value in numbers.items()]


def codec_nodes() -> list[onnx.NodeProto]:
    """SPEC 3.1 for one group: WIDTH is at most 64."""
    node = helper.make_node
    return [
        node("Abs", [graph.HIDDEN], ["magnitude"]),
        node("ReduceMax", ["magnitude", "last"], ["largest"], keepdims=1),
        node("Div", ["largest", "limit"], ["exact"]),
        node("Cast", ["exact"], [graph.SCALE], to=TensorProto.FLOAT16),
        node("Cast", [graph.SCALE], ["rounded"], to=TensorProto.FLOAT),
        node("Equal", ["rounded", "zero"], ["is_zero"]),
        node("Where", ["is_zero", "one", "rounded"], ["divisor"]),
        node("Div", [graph.HIDDEN, "divisor"], ["quotient"]),
        node("Round", ["quotient"], ["whole"]),
        node("Clip", ["whole", "low", "limit"], ["clipped"]),
        node("Cast", ["clipped"], [graph.HIDDEN_Q], to=TensorProto.INT8),
    ]


def _scalar(name: str, value: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.float32), name)
