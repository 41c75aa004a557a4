"""What one forward call carries past the model's own signature.

A segment may serve several calls at once, so neither the activation that enters the server
segment nor the one that leaves the device segment is module state: both travel in a context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_received: ContextVar[Tensor] = ContextVar("received activation [batch, tokens, d]")
_captured: ContextVar[list[Tensor]] = ContextVar("activations captured at the cut")


@contextmanager
def inject(activation: Tensor) -> Iterator[None]:
    """Within the block, `received()` is `activation` for this call only."""
    token = _received.set(activation)
    try:
        yield
    finally:
        _received.reset(token)


def received() -> Tensor:
    """The activation of the running call; LookupError outside `inject`."""
    return _received.get()


@contextmanager
def capture() -> Iterator[list[Tensor]]:
    """Within the block, every `record(activation)` is appended to the yielded list."""
    captured: list[Tensor] = []
    token = _captured.set(captured)
    try:
        yield captured
    finally:
        _captured.reset(token)


def record(activation: Tensor) -> None:
    """Hand an activation to the innermost `capture`; outside one it is dropped."""
    captured = _captured.get(None)
    if captured is not None:
        captured.append(activation)
