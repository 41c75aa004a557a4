"""How long shards wait. Pure.

Age is told, never acted upon: a device without a clock of its own starts in 1970 and jumps, and
what looks fifty years old may be from this morning. Only the user drops.
"""

from __future__ import annotations

from collections.abc import Sequence

from splitfrozen_edge.outbox.entries import Waiting

DAY = 86400.0  # seconds


def age_of(shard: Waiting, now: float) -> float:
    """Seconds since a shard was made; 0 if the clock has been set back since. `now`: wall clock."""
    return max(0.0, now - shard.created_at)


def old_shards(shards: Sequence[Waiting], age: float, now: float) -> str | None:
    """Words about the shards that wait for longer than `age` seconds; None if there are none."""
    old = [shard for shard in shards if age_of(shard, now) > age]
    if not old:
        return None
    days = age / DAY
    examples = sum(shard.examples for shard in old)
    return (
        f"{examples} examples in {len(old)} shards wait for more than {days:g} days (by this "
        f"device's clock); nothing is dropped unless you say so: splitfrozen-edge queue drop "
        f"--older-than {days:g}"
    )
