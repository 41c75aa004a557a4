"""A graph with past (SPEC 6.6) whose activations depend on every token before them.

Each of the four keys and values holds one channel of a token's embedding; a token's activation is
its embedding and a tenth of the sum of all that is kept up to it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from splitfrozen import graph
from tests.edge.tiny_codec import codec_constants, codec_nodes

BLOCKS = 2


def write_past_graph(path: Path, table: NDArray[np.float32]) -> None:
    """Write it with the weights in the file itself."""
    node, width = helper.make_node, table.shape[1]
    nodes = [
        node("Gather", ["table", graph.INPUT_IDS], ["looked_up"]),
        node("Shape", [graph.INPUT_IDS], ["tokens"], start=1, end=2),
        node("Neg", ["tokens"], ["from_end"]),
        node("Unsqueeze", ["looked_up", "heads"], ["one_head"]),
    ]
    pairs = zip(graph.past_names(BLOCKS), graph.present_names(BLOCKS), strict=True)
    for channel, (past, present) in enumerate(pairs):
        bounds = [f"from{channel}", f"to{channel}"]
        nodes.append(node("Slice", ["one_head", *bounds, "last"], [f"new{channel}"]))
        nodes.append(node("Concat", [past, f"new{channel}"], [present], axis=2))
    nodes += [
        node("Sum", graph.present_names(BLOCKS), ["kept"]),
        node("CumSum", ["kept", "time"], ["so_far"]),
        node("Slice", ["so_far", "from_end", "far", "time_axis"], ["of_new"]),
        node("Squeeze", ["of_new", "heads"], ["shift"]),
        node("Mul", ["shift", "tenth"], ["small"]),
        node("Add", ["looked_up", "small"], [graph.HIDDEN]),
        *codec_nodes(),
    ]
    constants = {"heads": [1], "last": [-1], "time_axis": [2], "far": [1 << 30]}
    constants |= {f"from{i}": [i] for i in range(4)} | {f"to{i}": [i + 1] for i in range(4)}
    weights = [numpy_helper.from_array(np.array(v), name) for name, v in constants.items()]
    weights += [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array(2), "time"),
        numpy_helper.from_array(np.array(0.1, np.float32), "tenth"),
        *codec_constants(),
    ]
    inputs = [
        helper.make_tensor_value_info(graph.INPUT_IDS, TensorProto.INT64, ["batch", "seq"]),
        helper.make_tensor_value_info(graph.ATTENTION_MASK, TensorProto.INT64, ["batch", "total"]),
        *(_cache(name, "past") for name in graph.past_names(BLOCKS)),
    ]
    outputs = [
        _of_tokens(graph.HIDDEN, TensorProto.FLOAT, width),
        _of_tokens(graph.HIDDEN_Q, TensorProto.INT8, width),
        _of_tokens(graph.SCALE, TensorProto.FLOAT16, 1),
        *(_cache(name, "total") for name in graph.present_names(BLOCKS)),
    ]
    body = helper.make_graph(nodes, "device_with_past", inputs, outputs, weights)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _cache(name: str, axis: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, axis, 1])


def _of_tokens(name: str, kind: int, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["batch", "seq", width])
