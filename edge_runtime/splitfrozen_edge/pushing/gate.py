"""Where something outside may hold a push: before it computes, before it sends."""

from __future__ import annotations

from typing import Protocol


class Gate(Protocol):
    """Asked by the stages, each in its own thread; may block, and has to return on a stop."""

    def before_batch(self) -> None:
        """Return when a batch may be computed."""
        ...

    def before_upload(self, size: int) -> None:
        """Return when a body of `size` bytes (before compression) may be sent."""
        ...


class OpenGate:
    """Holds nothing."""

    def before_batch(self) -> None:
        """Return at once."""

    def before_upload(self, size: int) -> None:
        """Return at once."""
