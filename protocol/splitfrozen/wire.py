"""One activation shard <-> bytes (SPEC 2). Pure: no files, no network.

A body is a restricted profile of safetensors, so any stock reader opens it:

    8 bytes   header length, little-endian
    header    canonical JSON: __metadata__ and the tensors, sorted by name
    tensors   raw little-endian bytes in the order of the header, no holes, nothing behind

Does not know which labels, bundles or datasets exist: that is the server's to check.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitfrozen.errors import WireError
from splitfrozen.header import MAX_HEADER, TensorInfo, header_bytes, parse_header, parse_tensors
from splitfrozen.quantize import CODECS, Float32, bf16_is_finite, decode_hidden, scale_width
from splitfrozen.version import PROTOCOL as PROTOCOL

MAX_BODY = 8 * 1024 * 1024  # bytes, uncompressed
TASKS = ("classification", "causal_lm", "inference")
IGNORED_TARGET = -100  # a target that is not trained on

_METADATA = ("bundle", "codec", "cut", "dataset", "protocol", "task")
_BUNDLE = re.compile(r"[0-9a-f]{64}")
_DATASET = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_CUT = re.compile(r"[1-9][0-9]{0,3}")
_HIDDEN_DTYPE = {"fp32": "F32", "bf16": "U16", "int8": "I8"}
_NUMPY = {"I8": "<i1", "U8": "<u1", "U16": "<u2", "F16": "<f2", "I32": "<i4", "F32": "<f4"}


@dataclass(frozen=True, eq=False)
class Shard:
    """A ragged batch of examples: tokens of all examples one after another, no padding."""

    bundle: str  # bundle id: 64 hex digits
    dataset: str  # dataset id; "" for task inference
    cut: int
    codec: str  # fp32 | bf16 | int8
    task: str  # classification | causal_lm | inference
    hidden: NDArray[Any]  # [tokens, d] float32 | uint16 (bf16 patterns) | int8
    lengths: NDArray[np.int32]  # [examples], tokens of each example
    scale: NDArray[np.float16] | None = None  # [tokens, ceil(d/64)], codec int8
    example_ids: NDArray[np.uint8] | None = None  # [examples, 16], all but inference
    labels: NDArray[np.int32] | None = None  # [examples], classification
    targets: NDArray[np.int32] | None = None  # [tokens], causal_lm: unshifted ids or -100

    @property
    def tokens(self) -> int:
        return int(self.hidden.shape[0])

    @property
    def hidden_size(self) -> int:
        return int(self.hidden.shape[1])

    @property
    def examples(self) -> int:
        return int(self.lengths.shape[0])

    def activations(self) -> Float32:
        """Decode to float32 [tokens, d]."""
        return decode_hidden(self.codec, self.hidden, self.scale)


def digest(body: bytes) -> str:
    """The name of a body: its SHA-256 in hex, before any content encoding."""
    return hashlib.sha256(body).hexdigest()


def encode(shard: Shard) -> bytes:
    """Write the one canonical body of a shard; WireError if `decode` would refuse it."""
    metadata = {
        "bundle": shard.bundle,
        "codec": shard.codec,
        "cut": str(shard.cut),
        "dataset": shard.dataset,
        "protocol": PROTOCOL,
        "task": shard.task,
    }
    _check_metadata(metadata)
    dtypes = _prescribed(shard.codec, shard.task)
    arrays = {name: getattr(shard, name) for name in dtypes}
    _check_present(set(dtypes), {name for name in _ALL if getattr(shard, name) is not None})
    chunks = {name: _to_bytes(name, arrays[name], dtypes[name]) for name in sorted(dtypes)}
    tensors: dict[str, TensorInfo] = {}
    place = 0
    for name, chunk in chunks.items():
        tensors[name] = TensorInfo(dtypes[name], arrays[name].shape, place, place + len(chunk))
        place += len(chunk)
    _check_shapes(tensors)
    _check_values(shard)
    header = header_bytes(metadata, tensors)
    body = b"".join([len(header).to_bytes(8, "little"), header, *chunks.values()])
    if len(body) > MAX_BODY:
        raise WireError("too_large", f"the shard takes {len(body)} bytes; limit {MAX_BODY}")
    return body


def decode(body: bytes) -> Shard:
    """Read a body; WireError with the code of the first broken rule, in the order of SPEC 2.4."""
    header, data = _cut_header(body)
    metadata, document = parse_header(header)
    _check_metadata(metadata)
    tensors = parse_tensors(document)
    dtypes = _prescribed(metadata["codec"], metadata["task"])
    _check_present(set(dtypes), set(tensors))
    for name, info in tensors.items():
        if info.dtype != dtypes[name]:
            raise WireError("bad_dtype", f"{name} is {info.dtype}, not {dtypes[name]}")
    _check_offsets(tensors, len(data))
    _check_shapes(tensors)
    if header != header_bytes(metadata, tensors):
        raise WireError("not_canonical", "the header is not in canonical form")
    arrays = {name: _to_array(data, info) for name, info in tensors.items()}
    shard = Shard(
        bundle=metadata["bundle"],
        dataset=metadata["dataset"],
        cut=int(metadata["cut"]),
        codec=metadata["codec"],
        task=metadata["task"],
        **arrays,
    )
    _check_values(shard)
    return shard


_ALL = ("example_ids", "hidden", "labels", "lengths", "scale", "targets")


def _prescribed(codec: str, task: str) -> dict[str, str]:
    """Tensor name -> dtype name of a codec and task."""
    found = {"hidden": _HIDDEN_DTYPE[codec], "lengths": "I32"}
    if codec == "int8":
        found["scale"] = "F16"
    if task != "inference":
        found["example_ids"] = "U8"
    if task == "classification":
        found["labels"] = "I32"
    if task == "causal_lm":
        found["targets"] = "I32"
    return found


def _cut_header(body: bytes) -> tuple[bytes, memoryview]:
    if len(body) > MAX_BODY:
        raise WireError("too_large", f"the body has {len(body)} bytes; limit {MAX_BODY}")
    if len(body) < 8:
        raise WireError("truncated", "the body is shorter than the header length field")
    size = int.from_bytes(body[:8], "little")
    if size > MAX_HEADER:
        raise WireError("header_too_large", f"the header declares {size} bytes; limit {MAX_HEADER}")
    if len(body) < 8 + size:
        raise WireError("truncated", "the body ends inside the header")
    return body[8 : 8 + size], memoryview(body)[8 + size :]


def _check_metadata(metadata: dict[str, str]) -> None:
    if tuple(sorted(metadata)) != _METADATA:
        raise WireError("bad_metadata", f"metadata needs exactly {', '.join(_METADATA)}")
    if metadata["protocol"] != PROTOCOL:
        raise WireError("unsupported_protocol", f"supported protocols: {PROTOCOL}")
    if metadata["codec"] not in CODECS:
        raise WireError("unknown_codec", f"known codecs: {', '.join(CODECS)}")
    if metadata["task"] not in TASKS:
        raise WireError("unknown_task", f"known tasks: {', '.join(TASKS)}")
    if not _BUNDLE.fullmatch(metadata["bundle"]):
        raise WireError("bad_metadata", "bundle is not 64 lower-case hex digits")
    if not _CUT.fullmatch(metadata["cut"]):
        raise WireError("bad_metadata", "cut is not a positive integer")
    inference = metadata["task"] == "inference"
    if inference != (metadata["dataset"] == ""):
        raise WireError("bad_metadata", "dataset is empty for task inference and only there")
    if not inference and not _DATASET.fullmatch(metadata["dataset"]):
        raise WireError("bad_metadata", "dataset is not an id of letters, digits, '_', '.', '-'")


def _check_present(prescribed: set[str], found: set[str]) -> None:
    if extra := sorted(found - prescribed):
        raise WireError("unknown_tensor", f"this task and codec have no tensor {extra[0][:64]!r}")
    if missing := sorted(prescribed - found):
        raise WireError("missing_tensor", f"this task and codec need the tensor {missing[0]!r}")


def _check_offsets(tensors: dict[str, TensorInfo], available: int) -> None:
    place = 0
    for name in sorted(tensors):
        if tensors[name].start != place:
            raise WireError("bad_offsets", f"{name} does not start where its predecessor ends")
        place = tensors[name].end
    if place > available:
        raise WireError("truncated", f"the tensors take {place} bytes; {available} are there")
    if place < available:
        raise WireError("trailing", f"{available - place} bytes follow the last tensor")


def _check_shapes(tensors: dict[str, TensorInfo]) -> None:
    hidden, lengths = tensors["hidden"].shape, tensors["lengths"].shape
    if len(hidden) != 2 or 0 in hidden:
        raise WireError("bad_shape", "hidden needs the shape [tokens, d], both at least 1")
    if len(lengths) != 1 or lengths[0] == 0:
        raise WireError("bad_shape", "lengths needs the shape [examples], at least 1")
    expected = {
        "scale": (hidden[0], scale_width(hidden[1])),
        "example_ids": (lengths[0], 16),
        "labels": lengths,
        "targets": hidden[:1],
    }
    for name, shape in expected.items():
        if name in tensors and tensors[name].shape != shape:
            raise WireError("bad_shape", f"{name} has shape {tensors[name].shape}, not {shape}")


def _check_values(shard: Shard) -> None:
    lengths = shard.lengths.astype(np.int64)
    if (lengths < 1).any() or int(lengths.sum()) != shard.tokens:
        raise WireError("bad_lengths", "lengths are not positive or do not add up to tokens")
    _check_finite(shard)
    if shard.labels is not None and (shard.labels < 0).any():
        raise WireError("label_out_of_range", "a label is negative")
    if shard.targets is not None:
        wrong = (shard.targets < 0) & (shard.targets != IGNORED_TARGET)
        if wrong.any():
            raise WireError("token_out_of_range", "a target is negative and not -100")
    if shard.example_ids is not None:
        distinct = {row.tobytes() for row in shard.example_ids}
        if len(distinct) != shard.examples:
            raise WireError("duplicate_in_shard", "an example id occurs twice")


def _check_finite(shard: Shard) -> None:
    hidden_ok = True
    if shard.codec == "fp32":
        hidden_ok = bool(np.isfinite(shard.hidden).all())
    elif shard.codec == "bf16":
        hidden_ok = bf16_is_finite(shard.hidden)
    if not hidden_ok:
        raise WireError("not_finite", "an activation is NaN or infinite")
    if shard.scale is not None:
        scale_ok = np.isfinite(shard.scale) & (shard.scale >= 0)
        if not scale_ok.all():
            raise WireError("not_finite", "a scale is NaN, infinite or negative")


def _to_bytes(name: str, array: NDArray[Any], dtype: str) -> bytes:
    if array.dtype != np.dtype(_NUMPY[dtype]):
        raise WireError("bad_dtype", f"{name} is {array.dtype}, not {np.dtype(_NUMPY[dtype])}")
    return np.ascontiguousarray(array, _NUMPY[dtype]).tobytes()


def _to_array(data: memoryview, info: TensorInfo) -> NDArray[Any]:
    flat = np.frombuffer(data[info.start : info.end], _NUMPY[info.dtype])
    return flat.reshape(info.shape)
