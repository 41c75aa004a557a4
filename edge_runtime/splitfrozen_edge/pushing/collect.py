"""Token ids and graph outputs -> shards. Pure: no files, no network, no runtime.

Padding exists only between `pad` and `strip`; a shard has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitfrozen.errors import DataError, QuantizeError
from splitfrozen.graph import HIDDEN, HIDDEN_Q, SCALE
from splitfrozen.quantize import encode_hidden, scale_width
from splitfrozen.wire import MAX_BODY, Shard
from splitfrozen_edge.data.preprocess import Encoded

Outputs = Mapping[str, NDArray[Any]]  # graph output -> padded array [batch, seq, …]

SHARD_EXAMPLES = 128
SHARD_BYTES = 2 * 1024 * 1024  # one upload of a few seconds on a slow uplink
_HEADER_ROOM = 2048  # bytes; the header of a shard has a fixed set of short fields
_ITEM_SIZE = {"fp32": 4, "bf16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class Example:
    """One row that is ready to run."""

    line: int  # where it is in the data file
    encoded: Encoded
    id: bytes = b""  # 16 bytes; empty for inference
    label: str | None = None  # name in the dataset's list


@dataclass(frozen=True)
class ShardHeader:
    """What all shards of a push have in common."""

    bundle: str
    dataset: str
    cut: int
    codec: str
    task: str
    hidden_size: int


@dataclass(frozen=True)
class Piece:
    """One example with its activations as they travel."""

    example: Example
    hidden: NDArray[Any]  # [tokens, d] in the codec's dtype
    scale: NDArray[np.float16] | None  # [tokens, ceil(d / 64)]


def pad(examples: Sequence[Example]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Right-padded input ids and attention mask, both int64 [batch, longest].

    The id of padding is 0: every vocabulary has it, which a tokenizer's pad token may not be in,
    and what the graph gives there is never used.
    """
    width = max(len(example.encoded.ids) for example in examples)
    ids = np.zeros((len(examples), width), np.int64)
    mask = np.zeros((len(examples), width), np.int64)
    for row, example in enumerate(examples):
        ids[row, : len(example.encoded.ids)] = example.encoded.ids
        mask[row, : len(example.encoded.ids)] = 1
    return ids, mask


def strip(examples: Sequence[Example], outputs: Outputs, header: ShardHeader) -> list[Piece]:
    """Cut each example's rows out of padded outputs and code them for the wire.

    Raises QuantizeError `not_finite` with the row's line: such activations never leave the device.
    """
    return [cut_piece(row, example, outputs, header) for row, example in enumerate(examples)]


def cut_piece(row: int, example: Example, outputs: Outputs, header: ShardHeader) -> Piece:
    """One example's rows; QuantizeError `not_finite` or `bad_shape`."""
    tokens = len(example.encoded.ids)
    hidden = outputs[HIDDEN][row, :tokens]
    if hidden.shape != (tokens, header.hidden_size):
        shape = f"{hidden.shape[1]} channels; the manifest says {header.hidden_size}"
        raise QuantizeError("bad_shape", f"the graph gives {shape}")
    if not np.isfinite(hidden).all():
        raise NotFiniteError(example.line, "an activation is NaN or infinite")
    if HIDDEN_Q in outputs:
        scale = outputs[SCALE][row, :tokens]
        if not np.isfinite(scale).all():
            raise NotFiniteError(example.line, "an activation is too large for a float16 scale")
        return Piece(example, outputs[HIDDEN_Q][row, :tokens].copy(), scale.copy())
    try:
        coded, scales = encode_hidden(header.codec, np.ascontiguousarray(hidden))
    except QuantizeError as error:
        raise NotFiniteError(example.line, error.message) from None
    return Piece(example, coded.copy(), scales)


class NotFiniteError(QuantizeError):
    """Code `not_finite`: what the graph gives for a row cannot travel; the row is not sent."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__("not_finite", f"row at line {line}: {reason}; the row is not sent")
        self.line = line
        self.reason = reason


def piece_bytes(tokens: int, hidden_size: int, codec: str) -> int:
    """Upper bound of what an example adds to a body."""
    row = hidden_size * _ITEM_SIZE[codec] + 4
    if codec == "int8":
        row += 2 * scale_width(hidden_size)
    return tokens * row + 24


def check_fits(example: Example, header: ShardHeader) -> None:
    """DataError if an example alone exceeds the limit of a shard."""
    tokens = len(example.encoded.ids)
    size = piece_bytes(tokens, header.hidden_size, header.codec) + _HEADER_ROOM
    if size > MAX_BODY:
        raise DataError(
            f"its {tokens} tokens take {size} bytes as {header.codec}; a shard takes {MAX_BODY}. "
            "Use a smaller wire codec (--wire int8) or a bundle with a smaller max_length"
        )


class ShardBuilder:
    """Gathers pieces until a shard is full."""

    def __init__(self, header: ShardHeader, places: Mapping[str, int]) -> None:
        """`places`: label name -> index in the dataset's list."""
        self._header = header
        self._places = places
        self._pieces: list[Piece] = []
        self._bytes = _HEADER_ROOM

    def add(self, piece: Piece) -> Iterator[Shard]:
        """Add one piece; yields the shard that had to be closed before it, if any."""
        size = piece_bytes(len(piece.hidden), self._header.hidden_size, self._header.codec)
        full = len(self._pieces) >= SHARD_EXAMPLES or self._bytes + size > SHARD_BYTES
        if self._pieces and full:
            yield from self.flush()
        self._pieces.append(piece)
        self._bytes += size

    def flush(self) -> Iterator[Shard]:
        """Yield what is gathered as a shard, if there is any."""
        if self._pieces:
            pieces, self._pieces, self._bytes = self._pieces, [], _HEADER_ROOM
            yield make_shard(self._header, pieces, self._places)


def make_shard(header: ShardHeader, pieces: Sequence[Piece], places: Mapping[str, int]) -> Shard:
    """Join pieces into one ragged shard."""
    examples = [piece.example for piece in pieces]
    scales = [piece.scale for piece in pieces if piece.scale is not None]
    labels = [places[example.label] for example in examples if example.label is not None]
    targets = [example.encoded.targets() for example in examples]
    ids = b"".join(example.id for example in examples)
    return Shard(
        bundle=header.bundle,
        dataset=header.dataset,
        cut=header.cut,
        codec=header.codec,
        task=header.task,
        hidden=np.concatenate([piece.hidden for piece in pieces]),
        lengths=np.array([len(piece.hidden) for piece in pieces], np.int32),
        scale=np.concatenate(scales) if scales else None,
        example_ids=np.frombuffer(ids, np.uint8).reshape(-1, 16) if ids else None,
        labels=np.array(labels, np.int32) if header.task == "classification" else None,
        targets=np.concatenate(targets) if header.task == "causal_lm" else None,
    )


def without(shard: Shard, known: set[bytes]) -> Shard | None:
    """The shard less the examples with these ids; None if none is left."""
    if shard.example_ids is None:
        return shard
    stay = np.array([row.tobytes() not in known for row in shard.example_ids], bool)
    if not stay.any():
        return None
    rows = np.repeat(stay, shard.lengths)
    return Shard(
        bundle=shard.bundle,
        dataset=shard.dataset,
        cut=shard.cut,
        codec=shard.codec,
        task=shard.task,
        hidden=shard.hidden[rows],
        lengths=shard.lengths[stay],
        scale=None if shard.scale is None else shard.scale[rows],
        example_ids=shard.example_ids[stay],
        labels=None if shard.labels is None else shard.labels[stay],
        targets=None if shard.targets is None else shard.targets[rows],
    )
