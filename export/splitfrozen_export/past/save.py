"""Write the cached graph beside the device graph, over the weights that already lie there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from splitfrozen.errors import SplitFrozenError
from splitfrozen.graph import DEVICE_GRAPH, DEVICE_WEIGHTS, DEVICE_WITH_PAST

SHARED_FROM = 256  # bytes; smaller tensors stand in the graph file itself, as in device.onnx
MAX_INLINE = 64 * 1024  # bytes of all tensors together that device.onnx does not have
_CHUNK = 1 << 20  # bytes compared at a time


def cached_graph_in(directory: Path) -> Path:
    """Where a bundle directory has its graph with past keys and values."""
    return directory / DEVICE_WITH_PAST


def save_beside(model: ir.Model, directory: Path) -> int:
    """Write `device_with_past.onnx`; its weights are those of `device.onnx`. Return its bytes.

    Every tensor of SHARED_FROM bytes or more must have its type, shape and bytes in
    `device.onnx.data`, where the new graph then points; names are only where the search begins.
    Up to MAX_INLINE bytes that are not there go into the graph file. `model` is changed: its
    initializers become references into `directory`.

    Raises SplitFrozenError `check_failed` when more than that would be stored a second time.
    """
    stored = _stored_tensors(directory)
    weights = np.memmap(directory / DEVICE_WEIGHTS, np.uint8, mode="r")
    inline: dict[str, int] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        if tensor.nbytes < SHARED_FROM:
            continue
        twin = _find_twin(tensor, name, stored, weights)
        if twin is None:
            inline[name] = tensor.nbytes
            value.const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
        else:
            value.const_value = _reference(twin, name, directory)
    _require_small(inline)
    proto = ir.to_proto(model).SerializeToString(deterministic=True)
    return cached_graph_in(directory).write_bytes(proto)


def _stored_tensors(directory: Path) -> dict[str, ir.ExternalTensor]:
    """What `device.onnx` keeps in its weights file, by name."""
    proto = onnx.load(directory / DEVICE_GRAPH, load_external_data=False)
    values = ir.from_proto(proto).graph.initializers
    tensors = {name: value.const_value for name, value in values.items()}
    return {
        name: tensor for name, tensor in tensors.items() if isinstance(tensor, ir.ExternalTensor)
    }


def _find_twin(
    tensor: ir.TensorProtocol,
    name: str,
    stored: dict[str, ir.ExternalTensor],
    weights: NDArray[np.uint8],
) -> ir.ExternalTensor | None:
    """The stored tensor with the same type, shape and bytes."""
    mine: NDArray[np.uint8] | None = None
    for twin in _candidates(tensor, name, stored):
        if mine is None:  # only now are its values computed
            mine = _bytes_of(tensor)
        start = twin.offset or 0
        if _same(mine, weights[start : start + len(mine)]):
            return twin
    return None


def _bytes_of(tensor: ir.TensorProtocol) -> NDArray[np.uint8]:
    """As they lie in a file, without a copy where numpy has them so."""
    array = tensor.numpy()
    if array.nbytes != tensor.nbytes or sys.byteorder != "little":
        return np.frombuffer(tensor.tobytes(), np.uint8)  # 4-bit codes: two in a byte
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _candidates(
    tensor: ir.TensorProtocol, name: str, stored: dict[str, ir.ExternalTensor]
) -> Iterator[ir.ExternalTensor]:
    form = (tensor.dtype, tuple(tensor.shape))
    first = [stored[name]] if name in stored else []
    others = [twin for other, twin in stored.items() if other != name]
    return (twin for twin in first + others if (twin.dtype, tuple(twin.shape)) == form)


def _same(mine: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> bool:
    starts = range(0, len(mine), _CHUNK)
    return len(mine) == len(theirs) and all(
        np.array_equal(mine[start : start + _CHUNK], theirs[start : start + _CHUNK])
        for start in starts
    )


def _reference(twin: ir.ExternalTensor, name: str, directory: Path) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        DEVICE_WEIGHTS,
        twin.offset,
        twin.length,
        twin.dtype,
        shape=ir.Shape(tuple(twin.shape)),
        name=name,
        base_dir=directory,
    )


def _require_small(inline: dict[str, int]) -> None:
    if sum(inline.values()) <= MAX_INLINE:
        return
    largest = sorted(inline, key=inline.__getitem__, reverse=True)[:3]
    raise SplitFrozenError(
        "check_failed",
        f"{sum(inline.values())} bytes of {DEVICE_WITH_PAST} are not in {DEVICE_WEIGHTS} "
        f"(the largest: {', '.join(largest)}); a bundle never holds weights twice. Export with "
        "--no-generation, and report this model",
    )
