"""The JSON header of a shard: one canonical form, read strictly (SPEC 2.2). Pure.

Knows names, dtypes, shapes and offsets; does not know what a tensor means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from splitfrozen.errors import WireError

MAX_HEADER = 64 * 1024  # bytes
METADATA = "__metadata__"
ITEM_SIZE = {"I8": 1, "U8": 1, "U16": 2, "F16": 2, "I32": 4, "F32": 4}
_LIMIT = 1 << 53  # integers above it are not exact in every language


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the header: dtype name, shape, and its bytes' place behind the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def header_bytes(metadata: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> bytes:
    """The canonical header: sorted keys, no spaces, padded by spaces to a multiple of 8."""
    document: dict[str, Any] = {METADATA: dict(metadata)}
    for name, info in tensors.items():
        document[name] = {
            "data_offsets": [info.start, info.end],
            "dtype": info.dtype,
            "shape": list(info.shape),
        }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii").ljust(-(-len(text) // 8) * 8)


def parse_header(header: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """Read a header into metadata and tensors in header order; WireError on any broken rule.

    The tensors are still plain JSON: their rules come after those of the metadata's values,
    which only the caller knows. `parse_tensors` is the next step.
    """
    document = _load_object(header)
    if METADATA not in document:
        raise WireError("bad_metadata", f"the header has no {METADATA}")
    return _read_metadata(document.pop(METADATA)), document


def parse_tensors(document: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """Read the form of each tensor of a header; WireError on the first broken rule."""
    return {name: _read_tensor(name, value) for name, value in document.items()}


def _load_object(header: bytes) -> dict[str, Any]:
    try:
        document = json.loads(header.decode("ascii"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # also an integer of thousands of digits
        raise WireError("bad_header", f"the header is not ASCII JSON: {error}") from None
    if not isinstance(document, dict):
        raise WireError("bad_header", "the header is not a JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise WireError("duplicate_key", "an object of the header repeats a key")
    return found


def _read_metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise WireError("bad_metadata", f"{METADATA} is not an object of strings")
    return value


def _read_tensor(name: str, value: Any) -> TensorInfo:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise WireError("bad_header", f"tensor {name[:64]!r} needs dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise WireError("bad_dtype", f"tensor {name[:64]!r} has a dtype outside the profile")
    if not _are_sizes(shape) or not 1 <= len(shape) <= 2:
        raise WireError("bad_shape", f"tensor {name[:64]!r} needs one or two sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise WireError("bad_offsets", f"tensor {name[:64]!r} needs two data_offsets")
    if prod(shape) * ITEM_SIZE[dtype] != offsets[1] - offsets[0]:
        raise WireError("bad_shape", f"tensor {name[:64]!r}: shape and data_offsets disagree")
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < _LIMIT for n in value)
