"""What the outbox takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One queued shard, with its body."""

    sequence: int
    dataset: str
    digest: str
    body: bytes
    examples: int
    tokens: int


@dataclass(frozen=True)
class NewShard:
    """A shard to queue."""

    digest: str
    body: bytes
    example_ids: Sequence[bytes]
    tokens: int


@dataclass(frozen=True)
class Waiting:
    """A shard on disk, without its body; times are wall clock, in seconds."""

    dataset: str
    digest: str
    state: str  # queued | refused (the server will not take it as it is)
    size: int  # bytes
    examples: int
    tokens: int
    created_at: float
    code: str | None = None  # of the refusal
    message: str | None = None
    parked_at: float | None = None


@dataclass(frozen=True)
class DatasetState:
    """Counts of one dataset; what is queued does not include what is parked."""

    id: str
    name: str
    bundle: str  # id of the last used one; empty if it is to be chosen anew
    queued_shards: int
    queued_examples: int
    queued_bytes: int
    acked_shards: int
    done_examples: int  # on the server
    parked_shards: int = 0  # refused for good
    parked_examples: int = 0
    parked_bytes: int = 0
    oldest_at: float | None = None  # wall clock of the oldest shard that waits or is parked
