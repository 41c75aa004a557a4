"""What a device segment will need in memory, estimated from its graph alone. Pure.

Three parts, because a device feels them differently:

- *private*: ONNX Runtime packs the weights of products once more at load, in the layout of its
  kernels; the packed copy counts fully and the original pages are given back. Estimated as the
  bytes of those weights.
- *file-backed*: embedding tables stay in the mapped file. Only rows that were looked up are
  resident, and the system may drop them at any time. Estimated as all of their bytes: at most that.
- *activations*: the largest sum of values alive at once, in the order of the graph, when a value
  is freed after its last reader; attention's scores inside fused operators are added. Twice that,
  because the runtime's arena grows by doubling.

The runtime's own part is a constant, measured with Python, numpy, ONNX Runtime and an open session
on x86-64 Linux. Against measured processes (`splitfrozen-bundle bench`) the sum is right within a
factor of 1.5; it was 0.80 to 1.08 of what was measured (`benchmarks.memory_estimate`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from splitfrozen_export.tools.opened import (
    BLOCK_PRODUCT,
    FLOAT_PRODUCTS,
    INT8_PRODUCTS,
    Graph,
    Tensor,
)

RUNTIME = 58_000_000  # bytes, with a session whose weights take nothing
_ARENA = 2  # what the arena holds for each byte alive
_BYTES_FLOAT = 4
_FUSED = ("Attention", "MultiHeadAttention", "GroupQueryAttention")
_LEADING = ("batch", "batch_size", "N")
_CODED = {"QuantizeLinear": 1, "DynamicQuantizeLinear": 1, "Shape": 0, "Size": 0}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Estimate:
    """Bytes."""

    runtime: int
    private: int  # packed weights of products
    file_backed: int  # embedding tables, at most
    activations: Mapping[str, int]  # "1x128" -> at the peak

    def peak(self, shape: str) -> int:
        """All of it together, at most."""
        return self.runtime + self.private + self.file_backed + self.activations[shape]


def estimate_memory(graph: Graph, shapes: tuple[tuple[int, int], ...]) -> Estimate:
    """Estimate for batches of [batch, seq] tokens."""
    sizes = {use.tensor.name: (use.kind, use.tensor.size) for use in graph.uses}
    return Estimate(
        runtime=RUNTIME,
        private=sum(size for kind, size in sizes.values() if kind == "product"),
        file_backed=sum(size for kind, size in sizes.values() if kind == "table"),
        activations={f"{b}x{s}": _ARENA * _peak(graph, b, s) for b, s in shapes},
    )


def _peak(graph: Graph, batch: int, seq: int) -> int:
    """Largest number of bytes alive at once."""
    proto = graph.model.graph
    known = {item.name: item for item in (*proto.input, *proto.value_info, *proto.output)}
    last = {name: at for at, node in enumerate(proto.node) for name in node.input}
    last |= {item.name: len(proto.node) for item in proto.output}
    shapes: dict[str, Shape] = {item.name: (batch, seq) for item in proto.input}
    alive: dict[str, int] = {}
    largest = 0
    for at, node in enumerate(proto.node):
        for name in filter(None, node.output):
            shapes[name] = _shape(name, node, shapes, known, graph.tensors, batch, seq)
            alive[name] = math.prod(shapes[name]) * _itemsize(node, known.get(name))
        largest = max(largest, sum(alive.values()) + _inside(node, shapes, batch, seq))
        for name in {*node.input, *node.output}:
            if last.get(name, at) <= at:
                alive.pop(name, None)
    return largest


def _shape(
    name: str,
    node: NodeProto,
    shapes: Mapping[str, Shape],
    known: Mapping[str, ValueInfoProto],
    tensors: Mapping[str, Tensor],
    batch: int,
    seq: int,
) -> Shape:
    """The declared shape, or what the operator makes of its largest input."""
    if name in known:
        return _declared(known[name], batch, seq)
    source = max((shapes[item] for item in node.input if item in shapes), key=math.prod, default=())
    if node.op_type in (*INT8_PRODUCTS, *FLOAT_PRODUCTS, BLOCK_PRODUCT) and source:
        return (*source[:-1], _columns(node, tensors, source[-1]))
    if node.op_type in ("Gather", "GatherBlockQuantized") and node.input[0] in tensors:
        return (*source, *tensors[node.input[0]].shape[1:])
    if node.op_type.startswith("Reduce") and source:
        return (*source[:-1], 1)
    return () if node.op_type == "Shape" else source


def _declared(item: ValueInfoProto, batch: int, seq: int) -> Shape:
    """A declared shape; of axes without a name, the first is the batch, the last two are seq."""
    axes = item.type.tensor_type.shape.dim
    unnamed = [at for at, dim in enumerate(axes) if not dim.dim_value and not dim.dim_param]
    guessed = dict.fromkeys(unnamed, 1) | dict.fromkeys(unnamed[1:][-2:], seq)
    guessed |= dict.fromkeys(unnamed[:1], batch)
    return tuple(
        dim.dim_value or guessed.get(at, batch if dim.dim_param in _LEADING else seq)
        for at, dim in enumerate(axes)
    )


def _columns(node: NodeProto, tensors: Mapping[str, Tensor], width: int) -> int:
    for item in node.attribute:
        if item.name == "N":
            return int(item.i)
    return next((tensors[name].shape[-1] for name in node.input[1:2] if name in tensors), width)


def _itemsize(node: NodeProto, declared: ValueInfoProto | None) -> int:
    if declared is not None and declared.type.tensor_type.elem_type != TensorProto.UNDEFINED:
        return int(helper.tensor_dtype_to_np_dtype(declared.type.tensor_type.elem_type).itemsize)
    return _CODED.get(node.op_type, _BYTES_FLOAT)


def _inside(node: NodeProto, shapes: Mapping[str, Shape], batch: int, seq: int) -> int:
    """What a fused operator allocates besides its outputs: the scores, before and after softmax."""
    if node.op_type not in _FUSED:
        return 0
    heads = next(
        (item.i for item in node.attribute if item.name in ("q_num_heads", "num_heads")), 0
    )
    query = shapes.get(node.input[0], ())
    heads = heads or (query[1] if len(query) == 4 else 1)
    return 2 * batch * int(heads) * seq * seq * _BYTES_FLOAT
