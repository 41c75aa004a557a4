"""The prefix digest: what identifies the frozen part, whatever its precision (SPEC 6.3).

Reads the tensors of the device segment from the checkpoint one by one and no other, so a server
can compute it for any cut of a model that does not fit in its memory.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from splitfrozen.errors import ModelError
from splitfrozen_export.split.classes import model_class
from splitfrozen_export.split.probe import device_parameters
from splitfrozen_export.split.refuse import check_cut
from splitfrozen_export.split.source import WEIGHTS, WEIGHTS_INDEX, ModelSource, fetch_weights

_CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredTensor:
    """Where the raw bytes of one tensor of a checkpoint lie."""

    file: Path
    dtype: str  # the safetensors name, such as BF16
    shape: tuple[int, ...]
    start: int  # absolute offset in the file, bytes
    size: int  # bytes


def prefix_digest(source: ModelSource, cut: int) -> str:
    """SHA-256, hex, over names, dtypes, shapes and bytes of the tensors below the cut.

    Names are those of the family's base model, so that a base checkpoint and a task checkpoint
    with the same frozen part agree. Raises ModelError `model_not_supported` when the model cannot
    be cut there or a tensor is missing.
    """
    check_cut(source.config, cut, code=source.code)
    fetch_weights(source)
    wanted = device_parameters(source.config, cut, code=source.code)
    tensors = _find_tensors(source, wanted)
    lines = [_line(name, tensors[name]) for name in sorted(wanted)]
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _line(name: str, tensor: StoredTensor) -> bytes:
    shape = ",".join(str(size) for size in tensor.shape)
    return "\0".join([name, tensor.dtype, shape, _hash_bytes(tensor)]).encode() + b"\n"


def _hash_bytes(tensor: StoredTensor) -> str:
    digest = hashlib.sha256()
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        left = tensor.size
        while left > 0:
            chunk = file.read(min(left, _CHUNK))
            if not chunk:
                raise ModelError(
                    "model_not_supported", f"{tensor.file} is cut short; copy it again"
                )
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def _find_tensors(source: ModelSource, wanted: set[str]) -> dict[str, StoredTensor]:
    """Map each wanted parameter of the base model to its bytes in the checkpoint."""
    cls = model_class(source.config, "base", code=source.code)
    with torch.device("meta"):
        known = set(cls(source.config).state_dict())
    files = _tensor_files(source.path)
    stored = {_canonical(name, known, cls.base_model_prefix): name for name in files}
    missing = sorted(wanted - stored.keys())
    if missing:
        raise ModelError(
            "model_not_supported",
            f"the checkpoint of {source.id!r} has no tensor for {missing[0]} of the device segment",
        )
    headers: dict[Path, dict[str, StoredTensor]] = {}
    found = {}
    for name in wanted:
        file = files[stored[name]]
        if file not in headers:
            headers[file] = _read_header(file)
        found[name] = headers[file][stored[name]]
    return found


def _canonical(name: str, known: set[str], prefix: str) -> str:
    """The base model's name of a checkpoint tensor: no task prefix, no legacy spelling."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    short = name.removeprefix(f"{prefix}.")
    return short if short in known else name


def _tensor_files(path: Path) -> dict[str, Path]:
    index = path / WEIGHTS_INDEX
    if index.is_file():
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
        return {name: path / file for name, file in weight_map.items()}
    return {name: path / WEIGHTS for name in _read_header(path / WEIGHTS)}


def _read_header(path: Path) -> dict[str, StoredTensor]:
    with path.open("rb") as file:
        length, header = _header_json(file)
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(
            file=path,
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            start=8 + length + entry["data_offsets"][0],
            size=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def _header_json(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    (length,) = struct.unpack("<Q", file.read(8))
    return length, json.loads(file.read(length))
