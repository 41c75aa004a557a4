"""Named places between two steps of the outbox's life. Nothing happens there, except in tests.

A test installs a hook that kills the process at one of them; a program that installs none pays
for a comparison. `POINTS` names them all, in the order in which a shard passes them.
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = (
    # a computed shard becomes durable
    "enqueue.begin",
    "enqueue.begun",
    "enqueue.shard",
    "enqueue.examples",
    "enqueue.done",
    # it travels
    "send.next",
    "send.begin",
    "send.confirmed",
    "send.refused",
    # its receipt becomes durable
    "ack.begin",
    "ack.begun",
    "ack.shard",
    "ack.done",
    # the server knew some of its examples: the others wait in a shard of their own
    "replace.begin",
    "replace.begun",
    "replace.shard",
    "replace.rest",
    "replace.examples",
    "replace.done",
    # the server will never take it
    "park.begin",
    "park.begun",
    "park.shard",
    "park.done",
)

_hook: Callable[[str], object] | None = None


def reach(name: str) -> None:
    """Say that the program is at a point."""
    if _hook is not None:
        _hook(name)


def install(hook: Callable[[str], object] | None) -> None:
    """Call `hook` with the name of every point that is reached; None: nothing again."""
    global _hook
    _hook = hook
