"""The safetensors files of a checkpoint, read tensor by tensor.

Plain positioned reads, not a mapping of the file: mapped pages count as memory of the process,
and a segment must cost its own weights only. What is not asked for is never read.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitfrozen.errors import ModelError
from splitfrozen_export.split.source import (
    WEIGHTS,
    WEIGHTS_INDEX,
    ModelSource,
    fetch_weights,
    weight_map,
)

_CHUNK = 1 << 22  # bytes converted at a time
_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """Where the raw bytes of one tensor of a checkpoint lie."""

    file: Path
    dtype: str  # the safetensors name, such as BF16
    shape: tuple[int, ...]
    start: int  # absolute offset in the file, bytes
    size: int  # bytes

    def read(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The values as `dtype`; beside them, at most 4 MiB are held at a time."""
        values = torch.empty(self.shape, dtype=dtype)
        self._fill(values.view(-1), 0)
        return values

    def read_rows(self, rows: Sequence[int]) -> Tensor:
        """Some rows of a matrix, fp32 [len(rows), ...]; `rows` in ascending order, none twice."""
        values = torch.empty((len(rows), *self.shape[1:]))
        width = values[0].numel() if len(rows) else 0
        for place, row, count in _runs(rows):
            self._fill(values[place : place + count].view(-1), row * width)
        return values

    def chunks(self, size: int) -> Iterator[bytes]:
        """The raw bytes, at most `size` at a time."""
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.start)
            left = self.size
            while left > 0:
                chunk = file.read(min(left, size))
                if not chunk:
                    raise self._cut_short()
                yield chunk
                left -= len(chunk)

    def _fill(self, target: Tensor, first: int) -> None:
        """Write the values from element `first` on into the vector `target`."""
        stored = self._torch_dtype()
        start = self.start + first * stored.itemsize
        with self.file.open("rb", buffering=0) as file:
            if stored == target.dtype:
                return self._read_into(file, target, start)
            step = max(_CHUNK // stored.itemsize, 1)
            scratch = torch.empty(min(step, target.numel()), dtype=stored)
            for place in range(0, target.numel(), step):
                part = scratch[: min(step, target.numel() - place)]
                self._read_into(file, part, start + place * stored.itemsize)
                target[place : place + len(part)] = part

    def _read_into(self, file: RawIOBase, target: Tensor, start: int) -> None:
        view = memoryview(target.view(torch.uint8).numpy().data)
        file.seek(start)
        while len(view):
            count = file.readinto(view)
            if not count:
                raise self._cut_short()
            view = view[count:]

    def _torch_dtype(self) -> torch.dtype:
        found = _DTYPES.get(self.dtype)
        if found is None:
            raise ModelError(
                "model_not_supported",
                f"{self.file} stores {self.dtype}, which no segment computes in; "
                "use the full-precision checkpoint",
            )
        return found

    def _cut_short(self) -> ModelError:
        return ModelError("model_not_supported", f"{self.file} is cut short; copy it again")


class Checkpoint:
    """The tensors that the weights of a source hold, by the names that they are stored under."""

    def __init__(self, source: ModelSource) -> None:
        """List the names; from the Hub, nothing but an unsharded file is downloaded for it."""
        self._source = source
        self._headers: dict[str, dict[str, StoredTensor]] = {}
        files = weight_map(source.path)
        if files is None:
            fetch_weights(source)
            files = dict.fromkeys(self._header(WEIGHTS), WEIGHTS)
        self._files = files

    @property
    def names(self) -> Sequence[str]:
        """Every stored tensor."""
        return tuple(self._files)

    def find(self, names: Sequence[str]) -> dict[str, StoredTensor]:
        """Where the tensors `names` lie; from the Hub, only the files that hold them are fetched.

        Raises ModelError `model_not_supported` for a file that is missing or is not safetensors.
        """
        fetch_weights(self._source, names)
        found = {}
        for name in names:
            header = self._header(self._files[name])
            if name not in header:
                raise ModelError(
                    "model_not_supported",
                    f"the index of {self._source.id!r} says that {self._files[name]} holds {name}, "
                    "but it does not; copy the model again",
                )
            found[name] = header[name]
        return found

    def _header(self, file: str) -> dict[str, StoredTensor]:
        if file not in self._headers:
            self._headers[file] = _read_header(self._source.path / file)
        return self._headers[file]


def checkpoint_bytes(source: ModelSource) -> int:
    """Size of all weights as they are stored; of a sharded checkpoint, what its index says.

    The shards of a Hub snapshot need not be there, an unsharded file is downloaded for it.
    """
    if weight_map(source.path) is None:
        fetch_weights(source)
        return (source.path / WEIGHTS).stat().st_size
    index = json.loads((source.path / WEIGHTS_INDEX).read_text("utf-8"))
    total = (index.get("metadata") or {}).get("total_size")
    return int(total) if isinstance(total, int | float) else sys.maxsize


def _read_header(path: Path) -> dict[str, StoredTensor]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LARGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        room = path.stat().st_size - 8 - length
        return {name: _entry(path, 8 + length, room, entry) for name, entry in header.items()}
    except FileNotFoundError as error:
        raise ModelError(
            "model_not_found", f"the weights {path} are missing; download or copy the model again"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ModelError(
            "model_not_supported", f"{path} cannot be read as safetensors ({error}); copy it again"
        ) from error


def _entry(path: Path, base: int, room: int, entry: dict[str, Any]) -> StoredTensor:
    begin, end = entry["data_offsets"]
    dtype = _DTYPES.get(entry["dtype"])
    whole = dtype is None or end - begin == math.prod(entry["shape"]) * dtype.itemsize
    if not whole or not 0 <= begin <= end <= room:
        raise ValueError(f"a tensor of shape {entry['shape']} at bytes {begin} to {end} of {room}")
    return StoredTensor(path, entry["dtype"], tuple(entry["shape"]), base + begin, end - begin)


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(place in `rows`, first row, number of rows) of every run of neighbours."""
    begin = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or rows[place] != rows[place - 1] + 1:
            yield begin, rows[begin], place - begin
            begin = place
