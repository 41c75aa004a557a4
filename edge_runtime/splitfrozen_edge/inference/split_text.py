"""One text on both sides: lower keys and values here, upper ones in a session of the server.

The activations of all tokens are kept as they travelled. When the server loses the session, they
are sent again to a new one: the device computes nothing twice, and the server sees the same bytes.
They take about a fiftieth of the keys' and values' memory (int8).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitfrozen.errors import DataError, QuantizeError, RefusedError
from splitfrozen.wire import MAX_BODY, Shard, encode
from splitfrozen_edge.data.preprocess import Encoded
from splitfrozen_edge.inference.sessions import Session, SessionRequest, SplitSessions, Step
from splitfrozen_edge.model.cached_session import CachedSession
from splitfrozen_edge.pushing.collect import Example, Piece, ShardHeader, cut_piece, piece_bytes

MAX_STEP = 512  # tokens of one step
_HEADER_ROOM = 2048  # bytes of a body beside its tensors
_MAX_LOSSES = 5  # sessions lost for one token before it is the server's fault
# not_found and out_of_order: the server's state is not what this side remembers; prefill helps.
_LOST = ("session_lost", "not_found", "out_of_order")


@dataclass
class Timing:
    """Seconds of a text; steps are calls that sent one token, prefills those that sent more."""

    prefill_tokens: int = 0
    prefill_device: float = 0.0
    prefill_wait: float = 0.0  # for the server, the way there and back included
    steps: int = 0
    step_device: float = 0.0
    step_wait: float = 0.0
    sessions_lost: int = 0


class SplitText:
    """Grows by token ids; every growth is answered with the server's next token."""

    def __init__(
        self,
        device: CachedSession,
        sessions: SplitSessions,
        request: SessionRequest,
        header: ShardHeader,
    ) -> None:
        self._device = device
        self._text = device.start()
        self._sessions = sessions
        self._request = request
        self._header = header
        self._pieces: list[Piece] = []
        self._session: Session | None = None
        self._sent = 0  # tokens that the session has
        self._sequence = 0  # of the last step that it answered
        self.timing = Timing()

    @property
    def tokens(self) -> int:
        """Tokens of the text so far."""
        return self._text.tokens

    @property
    def seed(self) -> int | None:
        """What the server draws with: as asked for, or as it chose when the session was made."""
        return self._request.seed

    def open(self) -> Session:
        """Make the session, if there is none; so that refusals come before any computing."""
        if self._session is None:
            self._session = self._sessions.open(self._request)
            self._request = replace(self._request, seed=self._session.seed)
            self._sent = self._sequence = 0
        return self._session

    def extend(self, ids: Sequence[int]) -> Step:
        """Append tokens (one at least) and return the server's next one, which is not appended.

        Raises DataError if the text has no room for them: it is as before then. RefusedError,
        QuantizeError and ModelError end it.
        """
        if not ids:
            raise DataError("there is nothing to append: the text gives no tokens")
        session = self.open()
        if self.tokens + len(ids) > session.max_positions:
            raise DataError(
                f"{self.tokens + len(ids)} tokens are more than the {session.max_positions} that "
                "the model can read; make the text shorter"
            )
        started = time.perf_counter()
        for start in range(0, len(ids), MAX_STEP):
            self._compute(ids[start : start + MAX_STEP])
        computed = time.perf_counter()
        step = self._deliver()
        self._note(len(ids), computed - started, time.perf_counter() - computed)
        return step

    def restart(self) -> None:
        """Forget all tokens, on both sides."""
        self.close()
        self._text = self._device.start()
        self._pieces.clear()

    def close(self) -> None:
        """Delete the session on the server."""
        if self._session is not None:
            session, self._session = self._session, None
            self._sessions.close(session.id)

    def _compute(self, ids: Sequence[int]) -> None:
        example = Example(self.tokens + 1, Encoded(np.array(ids, np.int32), None))
        try:
            self._pieces.append(cut_piece(0, example, self._text.feed(ids), self._header))
        except QuantizeError as error:
            raise QuantizeError(
                error.code, "the bundle gives activations that no server may get: not finite"
            ) from None

    def _deliver(self) -> Step:
        """Send what the session lacks; if it is lost, everything to a new one."""
        losses = 0
        while True:
            try:
                return self._send(self.open())
            except RefusedError as error:
                losses += 1
                if error.code not in _LOST or self._session is None or losses > _MAX_LOSSES:
                    raise
                self._session = None
                self.timing.sessions_lost += 1

    def _send(self, session: Session) -> Step:
        hidden, scale = self._unsent()
        limit = min(MAX_STEP, session.max_step_tokens, self._tokens_of_a_body())
        for start in range(0, len(hidden), limit):
            rows = slice(start, start + limit)
            body = self._encode(hidden[rows], None if scale is None else scale[rows])
            step = self._sessions.step(session.id, self._sequence + 1, body)
            self._sequence += 1
            self._sent += len(hidden[rows])
            if step.position != self._sent:
                raise RefusedError("session_lost", "the server has another number of tokens")
        return step  # only the last one's token continues the text

    def _unsent(self) -> tuple[NDArray[Any], NDArray[np.float16] | None]:
        """Coded activations behind the first `_sent` tokens."""
        pieces: list[Piece] = []
        left = self.tokens - self._sent
        for piece in reversed(self._pieces):
            pieces.insert(0, piece)
            left -= len(piece.hidden)
            if left <= 0:
                break
        hidden = np.concatenate([piece.hidden for piece in pieces])[-left:]
        scales = [piece.scale for piece in pieces if piece.scale is not None]
        return hidden, np.concatenate(scales)[-left:] if scales else None

    def _encode(self, hidden: NDArray[Any], scale: NDArray[np.float16] | None) -> bytes:
        header = self._header
        return encode(
            Shard(
                header.bundle, "", header.cut, header.codec, "inference",
                hidden, np.array([len(hidden)], np.int32), scale,
            )
        )  # fmt: skip

    def _tokens_of_a_body(self) -> int:
        each = piece_bytes(1, self._header.hidden_size, self._header.codec)
        return max(1, (MAX_BODY - _HEADER_ROOM) // each)

    def _note(self, tokens: int, device: float, wait: float) -> None:
        timing = self.timing
        if tokens == 1:
            timing.steps += 1
            timing.step_device += device
            timing.step_wait += wait
        else:
            timing.prefill_tokens += tokens
            timing.prefill_device += device
            timing.prefill_wait += wait
