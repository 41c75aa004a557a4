"""Shard bodies built by hand with struct and json, right ones and broken ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

BUNDLE = "0123456789abcdef" * 4

Vector = dict[str, Any]
Tensors = dict[str, tuple[str, list[int], bytes]]


def i32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def f32(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def f16(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}e", *values)


def i8(*values: int) -> bytes:
    return struct.pack(f"{len(values)}b", *values)


def metadata(**changes: Any) -> dict[str, Any]:
    fields = {
        "bundle": BUNDLE,
        "codec": "int8",
        "cut": "3",
        "dataset": "ds_1",
        "protocol": "1",
        "task": "classification",
    }
    return {key: value for key, value in {**fields, **changes}.items() if value is not None}


def ids(count: int) -> bytes:
    return bytes(range(16 * count))


def small(**changes: tuple[str, list[int], bytes] | None) -> Tensors:
    """Two examples of one and two tokens, three channels, int8."""
    tensors: Tensors = {
        "example_ids": ("U8", [2, 16], ids(2)),
        "hidden": ("I8", [3, 3], i8(127, -127, 0, 1, 2, 3, -4, -5, 127)),
        "labels": ("I32", [2], i32(1, 0)),
        "lengths": ("I32", [2], i32(1, 2)),
        "scale": ("F16", [3, 1], f16(0.5, 1.0, 0.25)),
    }
    return {name: value for name, value in {**tensors, **changes}.items() if value is not None}


def document(meta: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
    place, header = 0, {"__metadata__": meta}
    for name in sorted(tensors):
        dtype, shape, data = tensors[name]
        header[name] = {"data_offsets": [place, place + len(data)], "dtype": dtype, "shape": shape}
        place += len(data)
    return header


def canonical(header: Any) -> bytes:
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def frame(header: bytes, tensors: Tensors) -> bytes:
    data = b"".join(tensors[name][2] for name in sorted(tensors))
    return struct.pack("<Q", len(header)) + header + data


def shard(tensors: Tensors | None = None, **meta: Any) -> bytes:
    chosen = small() if tensors is None else tensors
    return frame(canonical(document(metadata(**meta), chosen)), chosen)


def ok(comment: str, tensors: Tensors, **meta: Any) -> Vector:
    return {
        "expect": "ok",
        "comment": comment,
        "wire_hex": shard(tensors, **meta).hex(),
        "metadata": metadata(**meta),
        "tensors": {
            name: {"dtype": dtype, "shape": shape, "bits_hex": data.hex()}
            for name, (dtype, shape, data) in sorted(tensors.items())
        },
    }


def bad(code: str, comment: str, wire: bytes) -> Vector:
    return {"expect": code, "comment": comment, "wire_hex": wire.hex()}


def edited(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The small shard with a changed header document."""
    header = document(metadata(), small())
    change(header)
    return frame(canonical(header), small())
