"""Read the graphs of a bundle without torch and without ONNX Runtime: what is in them, in numbers.

Only the structure is loaded; weights stay in their file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto

from splitfrozen.errors import ManifestError
from splitfrozen.graph import ATTENTION_MASK, INPUT_IDS

INT8_PRODUCTS = ("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul")
BLOCK_PRODUCT, BLOCK_TABLE = "MatMulNBits", "GatherBlockQuantized"
FLOAT_PRODUCTS = ("MatMul", "Gemm")
_CODES = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
_NAMES = {code: name.lower() for name, code in TensorProto.DataType.items()}


@dataclass(frozen=True)
class Tensor:
    """One constant of a graph."""

    name: str
    dtype: str  # onnx's name in lower case: float, int8, uint8, ...
    shape: tuple[int, ...]
    size: int  # bytes
    file: str | None  # None: inside the graph file
    offset: int  # bytes, in `file`


@dataclass(frozen=True)
class Use:
    """A matrix that a product or a lookup reads."""

    tensor: Tensor
    kind: str  # product | table
    bits: int  # of one weight
    weights: int  # how many it has


@dataclass(frozen=True)
class Graph:
    """What one graph file holds."""

    path: Path
    model: onnx.ModelProto  # without external data
    tensors: Mapping[str, Tensor]
    uses: tuple[Use, ...]  # one for each product and lookup

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return next((item.version for item in self.model.opset_import if not item.domain), 0)

    @property
    def ops(self) -> dict[str, int]:
        """How often each operator occurs, the most frequent first."""
        return dict(Counter(node.op_type for node in self.model.graph.node).most_common())

    def inputs(self) -> dict[str, tuple[str, int]]:
        """Element type and number of axes by name."""
        return {item.name: _signature(item) for item in self.model.graph.input}

    def outputs(self) -> dict[str, tuple[str, int]]:
        """Element type and number of axes by name."""
        return {item.name: _signature(item) for item in self.model.graph.output}

    def cache_bytes(self) -> int:
        """Bytes that past keys and values grow by with each token; 0 for a graph without them."""
        found = 0
        for item in self.model.graph.input:
            if item.name not in (INPUT_IDS, ATTENTION_MASK):
                _, heads, _, width = (axis.dim_value for axis in item.type.tensor_type.shape.dim)
                found += heads * width * _itemsize(item.type.tensor_type.elem_type)
        return found

    def count(self, kind: str, bits: tuple[int, ...]) -> int:
        """Products or tables whose weights have one of these widths."""
        return sum(use.kind == kind and use.bits in bits for use in self.uses)

    def parameters(self) -> int:
        """Weights of matrices and tables; norms, biases and scales are not counted."""
        return sum({use.tensor.name: use.weights for use in self.uses}.values())


def open_graph(path: Path) -> Graph:
    """Read a graph file. Raises ManifestError `bad_manifest` for what is no ONNX graph."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no common public class
        raise ManifestError("bad_manifest", f"{path} is no ONNX graph: {error}") from None
    tensors = {item.name: _tensor(item) for item in model.graph.initializer}
    found = (_use(node, tensors) for node in model.graph.node)
    return Graph(path, model, tensors, tuple(use for use in found if use is not None))


def _use(node: NodeProto, tensors: Mapping[str, Tensor]) -> Use | None:
    """The matrix of weights that a node reads, if it is a product or a lookup."""
    attributes = {item.name: item.i for item in node.attribute}
    if node.op_type == BLOCK_PRODUCT and node.input[1] in tensors:
        weights = attributes["K"] * attributes["N"]
        return Use(tensors[node.input[1]], "product", attributes.get("bits", 4), weights)
    if node.op_type == BLOCK_TABLE and node.input[0] in tensors:
        table, bits = tensors[node.input[0]], attributes.get("bits", 4)
        per_element = 1 if "4" in table.dtype else 8 // bits
        return Use(table, "table", bits, math.prod(table.shape) * per_element)
    if node.op_type in (*INT8_PRODUCTS, *FLOAT_PRODUCTS):
        matrix = next((tensors[name] for name in node.input[:2] if _is_matrix(name, tensors)), None)
        return None if matrix is None else _plain(matrix, "product")
    if node.op_type == "Gather" and _is_matrix(node.input[0], tensors):
        return _plain(tensors[node.input[0]], "table")
    return None


def _plain(tensor: Tensor, kind: str) -> Use:
    count = math.prod(tensor.shape)
    return Use(tensor, kind, 8 * tensor.size // count, count)


def _is_matrix(name: str, tensors: Mapping[str, Tensor]) -> bool:
    shape = tensors[name].shape if name in tensors else ()
    return len(shape) >= 2 and min(shape) > 1


def _tensor(item: TensorProto) -> Tensor:
    external = {entry.key: entry.value for entry in item.external_data}
    bits = 4 if item.data_type in _CODES[2:] else 8 * _itemsize(item.data_type)
    size = -(-math.prod(item.dims) * bits // 8)
    return Tensor(
        name=item.name,
        dtype=_NAMES[item.data_type],
        shape=tuple(item.dims),
        size=int(external["length"]) if external.get("length") else size,
        file=external.get("location") if item.data_location == TensorProto.EXTERNAL else None,
        offset=int(external.get("offset", 0)),
    )


def _itemsize(data_type: int) -> int:
    if data_type == TensorProto.STRING:
        return 0
    return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def _signature(item: onnx.ValueInfoProto) -> tuple[str, int]:
    kind = item.type.tensor_type
    return _NAMES[kind.elem_type], len(kind.shape.dim)
