"""The loop of generation: token ids in, text out. Pure: knows neither runtime nor network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from splitfrozen_edge.inference.sessions import Step
from splitfrozen_edge.inference.stream import StopFilter, StreamDecoder

MAX_TOKENS = 256  # of an answer, unless told otherwise
CONTEXT = 16  # tokens of the prompt that decide how the first new one is written


class Growing(Protocol):
    """A text that answers every growth with the token that comes next."""

    def extend(self, ids: Sequence[int]) -> Step: ...


class Generation:
    """One continuation. Iterate over it for the text; then it says how it ended.

    The pieces are whole characters; joined they are the text that follows the prompt.
    """

    def __init__(
        self,
        text: Growing,
        ids: Sequence[int],
        decode: Callable[[Sequence[int]], str],
        *,
        context: Sequence[int] | None = None,
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        halted: Callable[[], bool] = lambda: False,
    ) -> None:
        """`ids`: what to append before the first token; `halted` is asked between tokens.

        `context`: the last ids of the whole text, if `ids` are not enough to say how a word after
        them begins.
        """
        self._text = text
        self._ids = list(ids)
        self._decoder = StreamDecoder(decode, (context or self._ids)[-CONTEXT:])
        self._filter = StopFilter(stop)
        self._max_tokens = max_tokens
        self._halted = halted
        self.steps: list[Step] = []
        self.finish_reason: str | None = None  # stop | length | None: halted, or not at its end

    def __iter__(self) -> Iterator[str]:
        """Run to the end; may be left early, and not be started again."""
        ids = self._ids
        while self.finish_reason is None and not self._halted():
            step = self._text.extend(ids)
            self.steps.append(step)
            ids = [step.token]
            if step.finish_reason != "stop":
                yield from _full(self._filter.feed(self._decoder.feed(step.token)))
            self.finish_reason = self._reason(step)
        yield from _full(self._filter.feed(self._decoder.finish()))
        if self._filter.stopped:  # also by what only the end made certain
            self.finish_reason = "stop"
        yield from _full(self._filter.finish())

    def _reason(self, step: Step) -> str | None:
        if step.finish_reason == "stop" or self._filter.stopped:
            return "stop"
        if step.finish_reason == "length" or len(self.steps) >= self._max_tokens:
            return "length"
        return None


def _full(piece: str) -> Iterator[str]:
    if piece:
        yield piece
