"""Tokens -> text while they come: never half a character, stop strings cut exactly. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

_UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are no whole character (yet)
_WINDOW = 64  # tokens that are decoded again for a new one, at most twice as many
_CONTEXT = 8  # tokens kept in front of a new window


class StreamDecoder:
    """Turns token ids into text piece by piece; the pieces joined are the text of all ids.

    Tokens are no characters: one may end inside of a character, and what a token writes may depend
    on the one before it (the space of a word). So a window of tokens is always decoded together.
    """

    def __init__(self, decode: Decode, context: Sequence[int] = ()) -> None:
        """`context`: ids that the text continues; they are not written again."""
        self._decode = decode
        self._ids = list(context)
        self._written = len(decode(self._ids)) if self._ids else 0  # characters of the window

    def feed(self, token: int) -> str:
        """The text that is certain with one more token; often, but not always, the token's own."""
        self._ids.append(token)
        text = self._decode(self._ids)
        whole = text.rstrip(_UNFINISHED)
        piece = whole[self._written :]
        self._written = max(self._written, len(whole))
        if len(self._ids) > 2 * _WINDOW and len(whole) == len(text):
            self._shorten(text)
        return piece

    def finish(self) -> str:
        """What is left: bytes that never became a character, as U+FFFD."""
        text = self._decode(self._ids) if self._ids else ""
        piece, self._written = text[self._written :], max(self._written, len(text))
        return piece

    def _shorten(self, text: str) -> None:
        """Forget old tokens, if the rest means the same without them."""
        for keep in (_CONTEXT, _WINDOW):
            rest = self._decode(self._ids[-keep:])
            if rest and text.endswith(rest):
                self._ids, self._written = self._ids[-keep:], len(rest)
                return


class StopFilter:
    """Lets text through up to the first stop string, which may straddle pieces.

    The first is the one whose end comes first: so it does not matter how the text is cut in pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Empty strings among `stops` are ignored."""
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False  # a stop string came; nothing is let through any more

    def feed(self, piece: str) -> str:
        """What can be no part of a stop string."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [(place + len(s), place) for s in self._stops if (place := text.find(s)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that a stop string begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
