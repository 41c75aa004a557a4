"""Small ONNX graphs as text, and what ONNX Runtime answers on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

HEADER = '<ir_version: 10, opset_import: ["" : 23]>\n'


def parse(text: str, **constants: NDArray[Any]) -> ir.Model:
    """A model from ONNX text; `constants` become its initializers."""
    model = ir.from_onnx_text(HEADER + text)
    values = {
        value.name: value for node in model.graph for value in node.inputs if value is not None
    }
    for name, array in constants.items():
        value = values[name]
        value.const_value = ir.tensor(array, name=name)
        value.shape = ir.Shape(array.shape)
        value.type = ir.TensorType(value.const_value.dtype)
        model.graph.register_initializer(value)
    return model


def run(model: ir.Model, *, threads: int = 1, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
    """All outputs of a model in ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    raw = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[Any]] = session.run(None, inputs)
    return outputs


def operators(model: ir.Model) -> list[str]:
    """The operators of a graph in order of execution."""
    return [node.op_type for node in model.graph]


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Normally distributed numbers, the same for the same seed."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
