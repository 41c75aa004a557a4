"""Keys and values of split sessions: each session keeps its own, a batch joins them for one step.

    Tape          one block's keys and values of one session; grows; a window drops what it left
    SessionCache  the tapes of all blocks of one session
    JoinedCache   what a Transformers model takes as its cache: the tapes of a batch's sessions

A step writes behind the end of the tapes, and only `commit` moves the end: a step that fails leaves
its session as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_PIECE = 64  # tokens by which a tape grows at least
_GROWTH = 1.25


@dataclass(frozen=True)
class LayerPlan:
    """What the cache of one block holds."""

    window: int | None  # tokens that a query sees, itself included; None: all
    is_phantom: bool = False  # a skipped block: counted, never stored


class Tape:
    """Keys and values [1, heads, tokens, width] of one block, in buffers that are rarely moved."""

    def __init__(self, window: int | None) -> None:
        self._window = window
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._start = 0  # first token in the buffers that a later query can see
        self._end = 0
        self._written = 0  # behind the end
        self._room = 0  # tokens of the buffers

    @property
    def kept(self) -> int:
        """Tokens that a later query can see."""
        return self._end - self._start

    @property
    def token_bytes(self) -> int:
        """Bytes of one token; 0 before the first is written."""
        if self._keys is None or self._values is None:
            return 0
        return (self._keys.nbytes + self._values.nbytes) // self._room

    def room_for(self, new: int) -> int:
        """Tokens that the buffers will have room for once `new` more are written."""
        fits = self._end + new <= self._room
        return self._room if fits else _rounded(self.kept + new)

    def write(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put new tokens behind the end; returns what is kept and the new ones, as views."""
        new = keys.shape[-2]
        if self._end + new > self._room:
            room = self.room_for(new)
            kept = slice(self._start, self._end)
            self._keys = _moved(self._keys, kept, room, like=keys)
            self._values = _moved(self._values, kept, room, like=values)
            self._start, self._end, self._room = 0, self.kept, room
        assert self._keys is not None and self._values is not None
        stop = self._end + new
        self._keys[:, :, self._end : stop] = keys
        self._values[:, :, self._end : stop] = values
        self._written = new
        return self._keys[:, :, self._start : stop], self._values[:, :, self._start : stop]

    def commit(self) -> None:
        """Keep what the last `write` brought."""
        self._end += self._written
        self._written = 0
        if self._window is not None:
            self._start = max(self._start, self._end - (self._window - 1))


class SessionCache:
    """All keys and values of one session."""

    def __init__(self, plan: Sequence[LayerPlan]) -> None:
        self.tapes = [Tape(layer.window) for layer in plan]
        self.tokens = 0  # that went through the model

    def bytes_with(self, new: int, token_bytes: Sequence[int]) -> int:
        """Bytes of all buffers once `new` more tokens are written; `token_bytes` of each block."""
        return sum(
            size * tape.room_for(new) for size, tape in zip(token_bytes, self.tapes, strict=True)
        )

    def commit(self, new: int) -> None:
        """Keep the `new` tokens that the last forward pass wrote."""
        for tape in self.tapes:
            tape.commit()
        self.tokens += new


class Scratch:
    """Memory in which one block after the other joins a batch's keys, kept between steps.

    Fresh memory for every block of every token costs more than the copying.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    def join(self, rows: Sequence[Tensor]) -> Tensor:
        """Rows [1, heads, tokens, width] of different lengths as one batch, zeros on the left.

        The result is good until the next call.
        """
        longest = max(row.shape[-2] for row in rows)
        heads, width = rows[0].shape[1], rows[0].shape[-1]
        size = len(rows) * heads * longest * width
        if self._buffer is None or self._buffer.numel() < size:
            self._buffer = rows[0].new_empty(int(size * _GROWTH))
        found = self._buffer[:size].view(len(rows), heads, longest, width)
        for place, row in enumerate(rows):
            padding = longest - row.shape[-2]
            found[place, :, :padding] = 0
            found[place, :, padding:] = row[0]
        return found


class JoinedCache(Cache):
    """The caches of a batch's sessions as one, for a single forward pass.

    Shorter sessions are padded on the left, so that new tokens and windows count from the end, as
    the attention mask of `mask` says. `scratch` is for the joined keys and for the joined values.
    """

    def __init__(
        self,
        plan: Sequence[LayerPlan],
        sessions: Sequence[SessionCache],
        scratch: tuple[Scratch, Scratch],
    ) -> None:
        self._sessions = sessions
        longest = max(session.tokens for session in sessions)
        layers: list[Any] = [
            _JoinedLayer(layer, [session.tapes[index] for session in sessions], longest, scratch)
            for index, layer in enumerate(plan)
        ]
        super().__init__(layers=layers)

    def mask(self, new: int, device: torch.device) -> Tensor:
        """int64 [batch, longest + new]: 1 on tokens, 0 on the padding before them."""
        lengths = [session.tokens for session in self._sessions]
        mask = torch.ones(len(lengths), max(lengths) + new, dtype=torch.int64, device=device)
        for row, length in enumerate(lengths):
            mask[row, : max(lengths) - length] = 0
        return mask


class _JoinedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One block of a joined cache."""

    def __init__(
        self,
        plan: LayerPlan,
        tapes: Sequence[Tape],
        longest: int,
        scratch: tuple[Scratch, Scratch],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._plan = plan
        self._tapes = tapes
        self._scratch = scratch
        self._seen = longest
        self.is_sliding = plan.window is not None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare: the tapes are there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append new tokens [batch, heads, new, width]; returns all that the queries may see."""
        new = key_states.shape[-2]
        self._seen += new
        if self._plan.is_phantom:
            return key_states, value_states
        rows = [
            tape.write(key_states[row : row + 1], value_states[row : row + 1])
            for row, tape in enumerate(self._tapes)
        ]
        if len(rows) == 1:
            return rows[0]
        of_keys, of_values = self._scratch
        return of_keys.join([row[0] for row in rows]), of_values.join([row[1] for row in rows])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of the keys with the new ones, and the place of the first in the whole text."""
        kept = self._seen
        if self._plan.window is not None:
            kept = min(kept, self._plan.window - 1)
        return kept + query_length, self._seen - kept

    def get_seq_length(self) -> int:
        return self._seen

    def get_max_length(self) -> int:
        return -1 if self._plan.window is None else self._plan.window


def _rounded(tokens: int) -> int:
    """Tokens of a buffer that is to hold `tokens` and some more."""
    wanted = int(tokens * _GROWTH)
    return -(-wanted // _PIECE) * _PIECE


def _moved(buffer: Tensor | None, kept: slice, room: int, *, like: Tensor) -> Tensor:
    found = like.new_empty(1, like.shape[1], room, like.shape[-1])
    if buffer is not None:
        found[:, :, : kept.stop - kept.start] = buffer[:, :, kept]
    return found
