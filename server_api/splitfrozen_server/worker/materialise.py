"""Admitted shards as one local, memory-mapped file: ragged, still coded, no padding stored.

    activations.bin   per shard: hidden, scale, lengths, example_ids, labels or targets, each
                      starting at a multiple of 64 bytes
    index.jsonl       one line per shard: where its tensors lie, and the CRC-32 of its bytes

Everything here is derived from the blobs and may be deleted at any time. On opening, every shard's
bytes are checked and the file is cut before the first one that is torn or rotten; `agree` cuts it
before the first that the server no longer lists. The caller appends what is missing again. Rows
are examples, numbered in the order of the shards.
"""

from __future__ import annotations

import bisect
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitfrozen.quantize import Float32, decode_hidden
from splitfrozen.wire import Shard

ALIGNMENT = 64  # bytes; a tensor may then be viewed in place
_TENSORS = ("hidden", "scale", "lengths", "example_ids", "labels", "targets")


@dataclass(frozen=True)
class _Place:
    """Where one tensor of one shard lies in activations.bin."""

    start: int
    dtype: str
    shape: list[int]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class _Entry:
    """One line of index.jsonl."""

    sequence: int
    digest: str
    bundle: str
    codec: str
    start: int
    end: int
    crc: int
    tensors: dict[str, _Place]


@dataclass(frozen=True)
class Rows:
    """The examples of one shard: `first` is the row number of the first."""

    first: int
    sequence: int
    bundle: str
    lengths: NDArray[np.int32]  # [examples]
    example_ids: NDArray[np.uint8]  # [examples, 16]
    labels: NDArray[np.int32] | None  # [examples]
    targets: NDArray[np.int32] | None  # [tokens]


class TrainingFile:
    """The activations of one dataset, appended shard by shard and read example by example."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._data = directory / "activations.bin"
        self._index = directory / "index.jsonl"
        self._recover()

    @property
    def last_sequence(self) -> int:
        """Sequence number of the newest shard held; 0 when empty."""
        return self._entries[-1].sequence if self._entries else 0

    def agree(self, listed: Sequence[tuple[int, str]]) -> None:
        """Keep the shards that are the first of `listed` (sequence, digest); drop the others.

        A server that was restored from a backup numbers other shards with the same sequences.
        """
        held = [(entry.sequence, entry.digest) for entry in self._entries]
        keep = 0
        while keep < min(len(held), len(listed)) and held[keep] == listed[keep]:
            keep += 1
        if keep < len(held):
            self._index.write_text(_index_text(self._entries[:keep]))
            self._recover()

    def append(self, sequence: int, digest: str, shard: Shard) -> None:
        """Add a shard; sequences must rise. Bytes are written before the line that lists them."""
        if sequence <= self.last_sequence:
            raise ValueError(f"shard {sequence} comes after {self.last_sequence}")
        start = self._entries[-1].end if self._entries else 0
        places, blob = _lay_out(shard, start)
        with self._data.open("r+b") as file:
            file.seek(start)
            file.write(blob)
        crc = zlib.crc32(blob)
        end = start + len(blob)
        entry = _Entry(sequence, digest, shard.bundle, shard.codec, start, end, crc, places)
        with self._index.open("a") as file:
            file.write(json.dumps(asdict(entry)) + "\n")
        self._map = _map(self._data)
        self._take(entry)

    def shards(self, after: int, until: int) -> Iterator[Rows]:
        """The shards with after < sequence <= until, in order."""
        for number, entry in enumerate(self._entries):
            if after < entry.sequence <= until:
                yield Rows(
                    first=self._first_rows[number],
                    sequence=entry.sequence,
                    bundle=entry.bundle,
                    lengths=self._tensor(entry, "lengths"),
                    example_ids=self._tensor(entry, "example_ids"),
                    labels=self._optional(entry, "labels"),
                    targets=self._optional(entry, "targets"),
                )

    def activations(self, row: int) -> Float32:
        """Decode one example to float32 [tokens, d]."""
        entry, span, _ = self._locate(row)
        scale = self._tensor(entry, "scale")[span] if "scale" in entry.tensors else None
        return decode_hidden(entry.codec, self._tensor(entry, "hidden")[span], scale)

    def length(self, row: int) -> int:
        """Tokens of one example."""
        _, span, _ = self._locate(row)
        return int(span.stop - span.start)

    def label(self, row: int) -> int:
        entry, _, local = self._locate(row)
        return int(self._tensor(entry, "labels")[local])

    def targets(self, row: int) -> NDArray[np.int32]:
        """Unshifted target ids of one example, [tokens]; -100 is not trained on."""
        entry, span, _ = self._locate(row)
        found: NDArray[np.int32] = self._tensor(entry, "targets")[span]
        return found

    def _locate(self, row: int) -> tuple[_Entry, slice, int]:
        number = bisect.bisect_right(self._first_rows, row) - 1
        local = row - self._first_rows[number]
        starts = self._starts[number]
        return self._entries[number], slice(int(starts[local]), int(starts[local + 1])), local

    def _optional(self, entry: _Entry, name: str) -> NDArray[Any] | None:
        return self._tensor(entry, name) if name in entry.tensors else None

    def _tensor(self, entry: _Entry, name: str) -> NDArray[Any]:
        place = entry.tensors[name]
        flat = self._map[place.start : place.start + place.size]
        return flat.view(place.dtype).reshape(place.shape)

    def _take(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._first_rows.append(self.examples)
        lengths = self._tensor(entry, "lengths").astype(np.int64)
        self._starts.append(np.concatenate([[0], np.cumsum(lengths)]))
        self.examples += len(lengths)

    def _recover(self) -> None:
        self._data.touch()
        self._index.touch()
        self._entries: list[_Entry] = []
        self._first_rows: list[int] = []
        self._starts: list[NDArray[np.int64]] = []  # token offsets inside each shard
        self.examples = 0
        self._map = _map(self._data)
        for entry in _read_index(self._index):
            if entry.end > len(self._map) or not self._is_sound(entry):
                break
            self._take(entry)
        end = self._entries[-1].end if self._entries else 0
        lines = _index_text(self._entries)
        if self._index.read_text(errors="replace") != lines:
            self._index.write_text(lines)
        if self._data.stat().st_size > end:
            with self._data.open("r+b") as file:
                file.truncate(end)
            self._map = _map(self._data)

    def _is_sound(self, entry: _Entry) -> bool:
        rises = entry.sequence > self.last_sequence
        return rises and zlib.crc32(self._map[entry.start : entry.end].data) == entry.crc


def _lay_out(shard: Shard, start: int) -> tuple[dict[str, _Place], bytes]:
    places: dict[str, _Place] = {}
    chunks: list[bytes] = []
    end = start
    for name in _TENSORS:
        array = getattr(shard, name)
        if array is None:
            continue
        raw = np.ascontiguousarray(array).tobytes()
        padding = -len(raw) % ALIGNMENT
        places[name] = _Place(end, array.dtype.str, list(array.shape))
        chunks.append(raw + bytes(padding))
        end += len(raw) + padding
    return places, b"".join(chunks)


def _map(path: Path) -> NDArray[np.uint8]:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r")


def _index_text(entries: Sequence[_Entry]) -> str:
    return "".join(json.dumps(asdict(entry)) + "\n" for entry in entries)


def _read_index(path: Path) -> list[_Entry]:
    """The entries up to the first line that cannot be read."""
    entries: list[_Entry] = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            fields = json.loads(line)
            fields["tensors"] = {k: _Place(**v) for k, v in fields["tensors"].items()}
            entries.append(_Entry(**fields))
        except (ValueError, TypeError, KeyError, AttributeError):
            break
    return entries
