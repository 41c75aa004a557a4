"""An upload's body in pieces, so that a rate limit can hold each of them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

CHUNK = 16 * 1024  # bytes between two looks at the throttle


class Chunks:
    """A body of known length; `throttle` hears of each piece before it is sent, and may wait.

    It can be iterated again, so the same request can be sent again.
    """

    def __init__(self, content: bytes, throttle: Callable[[int], None]) -> None:
        self._content = content
        self._throttle = throttle

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._content), CHUNK):
            chunk = self._content[start : start + CHUNK]
            self._throttle(len(chunk))
            yield chunk
