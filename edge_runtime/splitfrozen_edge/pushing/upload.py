"""Queued shards -> receipts. Deletes a body only after its receipt; sets aside what is refused."""

from __future__ import annotations

from dataclasses import dataclass

from splitfrozen.errors import RefusedError
from splitfrozen.wire import Shard, decode, digest, encode
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.outbox.points import reach
from splitfrozen_edge.outbox.store import Entry, NewShard, Outbox
from splitfrozen_edge.pushing.collect import without
from splitfrozen_edge.pushing.verdicts import Verdict, judge

_SENDS = 3  # of a shard whose bytes break on the way each time


@dataclass
class Uploaded:
    """What was settled so far."""

    shards: int = 0
    examples: int = 0
    duplicates: int = 0
    bytes_body: int = 0
    damaged: int = 0  # examples whose body was unreadable on disk; dropped


def seal_shard(shard: Shard) -> NewShard:
    """Encode a shard into what the outbox stores."""
    body = encode(shard)
    rows = () if shard.example_ids is None else shard.example_ids
    return NewShard(digest(body), body, [row.tobytes() for row in rows], shard.tokens)


def settle_one(client: Client, outbox: Outbox, entry: Entry, totals: Uploaded) -> int:
    """Send a queued shard, or set it aside if it is refused for good; examples settled.

    Raises RefusedError when nothing else of the dataset is worth sending now: the server is away
    (`retryable`), it refuses this device (the shard stays queued), or it takes nothing more of
    the dataset or the bundle (all shards of it are set aside).
    """
    if digest(entry.body) != entry.digest:
        outbox.drop(digest=entry.digest)
        totals.damaged += entry.examples
        return entry.examples
    for attempt in range(1, _SENDS + 1):
        try:
            return upload_one(client, outbox, entry, totals)
        except RefusedError as error:
            verdict = judge(error)
            if verdict is Verdict.RESEND and attempt < _SENDS:
                continue
            return _set_aside(outbox, entry, error, verdict)
    raise AssertionError("the last attempt returns or raises")


def upload_one(client: Client, outbox: Outbox, entry: Entry, totals: Uploaded) -> int:
    """Send one queued shard; returns how many of its examples are settled.

    Raises RefusedError when the server refuses it or stays unreachable; the shard stays queued.
    """
    reach("send.begin")
    try:
        client.put_shard(entry.dataset, entry.digest, entry.body)
    except RefusedError as error:
        reach("send.refused")
        if error.code != "duplicate_example":
            raise
        return _drop_known(outbox, entry, error, totals)
    reach("send.confirmed")
    outbox.ack(entry.digest)
    totals.shards += 1
    totals.examples += entry.examples
    totals.bytes_body += len(entry.body)
    return entry.examples


def _set_aside(outbox: Outbox, entry: Entry, error: RefusedError, verdict: Verdict) -> int:
    if verdict is Verdict.WAIT:
        raise error
    if verdict is Verdict.STOP:
        raise _explain(error, "what is collected stays queued and is sent by the same command once "
                              "the cause is mended; to give it up: splitfrozen-edge queue drop "
                              f"--dataset {entry.dataset}") from error  # fmt: skip
    if verdict not in (Verdict.PARK_DATASET, Verdict.PARK_BUNDLE):
        outbox.park(entry.digest, error.code, error.message)
        return entry.examples
    bundle = decode(entry.body).bundle if verdict is Verdict.PARK_BUNDLE else None
    shards, examples = park_all(outbox, entry.dataset, error, bundle)
    raise SetAsideError(error, shards, examples, entry.dataset, bundle) from error


class SetAsideError(RefusedError):
    """The server takes nothing more of a dataset, or of a bundle; all that waited is set aside."""

    def __init__(
        self, cause: RefusedError, shards: int, examples: int, dataset: str, bundle: str | None
    ) -> None:
        told = f"{shards} shards with {examples} examples are set aside ({commands(dataset)})"
        if bundle is not None:
            told += "; the same command computes their rows with the bundle that the server has now"
        super().__init__(cause.code, f"{cause.message}; {told}", details=cause.details)
        self.cause = cause
        self.dataset = dataset
        self.bundle = bundle  # id; None: the whole dataset


def park_all(
    outbox: Outbox, dataset: str, error: RefusedError, bundle: str | None
) -> tuple[int, int]:
    """Set aside what waits of a dataset, or of one bundle in it: (shards, examples).

    The dataset's next push then chooses another bundle.
    """
    if bundle is None:
        found = outbox.queued(dataset)
        outbox.park_all(dataset, error.code, error.message)
        return found
    shards = examples = 0
    for waiting in outbox.entries(dataset):
        if waiting.state == "queued" and outbox.bundle_of(waiting.digest) == bundle:
            outbox.park(waiting.digest, error.code, error.message, bundle=bundle)
            shards, examples = shards + 1, examples + waiting.examples
    if outbox.dataset_bundle(dataset) == bundle:
        outbox.forget_bundle_of(dataset)
    return shards, examples


def commands(dataset: str) -> str:
    """What a user can do about shards that are set aside."""
    return (
        "splitfrozen-edge queue list shows them; queue retry sends them again, "
        f"queue drop --dataset {dataset} gives them up"
    )


def _explain(error: RefusedError, advice: str) -> RefusedError:
    return RefusedError(
        error.code, f"{error.message}; {advice}", param=error.param, details=error.details
    )


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
