"""The upload stage: queued shards -> receipts. Deletes a body only after its receipt."""

from __future__ import annotations

from dataclasses import dataclass

from splitfrozen.errors import RefusedError
from splitfrozen.wire import Shard, decode, digest, encode
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.outbox.store import Entry, NewShard, Outbox
from splitfrozen_edge.pushing.collect import without


@dataclass
class Uploaded:
    """What was confirmed so far."""

    shards: int = 0
    examples: int = 0
    duplicates: int = 0
    bytes_body: int = 0


def seal_shard(shard: Shard) -> NewShard:
    """Encode a shard into what the outbox stores."""
    body = encode(shard)
    rows = () if shard.example_ids is None else shard.example_ids
    return NewShard(digest(body), body, [row.tobytes() for row in rows], shard.tokens)


def upload_one(client: Client, outbox: Outbox, entry: Entry, totals: Uploaded) -> int:
    """Send one queued shard; returns how many of its examples are settled.

    Raises RefusedError when the server refuses it or stays unreachable; the shard stays queued.
    """
    try:
        client.put_shard(entry.dataset, entry.digest, entry.body)
    except RefusedError as error:
        if error.code != "duplicate_example":
            raise
        return _drop_known(outbox, entry, error, totals)
    outbox.ack(entry.digest)
    totals.shards += 1
    totals.examples += entry.examples
    totals.bytes_body += len(entry.body)
    return entry.examples


def _drop_known(outbox: Outbox, entry: Entry, error: RefusedError, totals: Uploaded) -> int:
    """Queue the examples that the server lacks as a new shard; the others are there already."""
    known = _known_ids(error)
    shard = decode(entry.body)
    rest = without(shard, known)
    dropped = shard.examples - (rest.examples if rest else 0)
    if dropped == 0:
        raise error  # names none of ours: sending the rest again would never end
    outbox.replace(entry.digest, seal_shard(rest) if rest else None)
    totals.duplicates += dropped
    return dropped


def _known_ids(error: RefusedError) -> set[bytes]:
    listed = error.details.get("example_ids")
    try:
        return {bytes.fromhex(item) for item in listed} if isinstance(listed, list) else set()
    except (TypeError, ValueError):
        return set()
