"""What a push did, for people and for programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from splitfrozen_edge.data.examples import Tally
from splitfrozen_edge.outbox.entries import Waiting
from splitfrozen_edge.pushing.target import Target
from splitfrozen_edge.pushing.upload import Uploaded, commands


@dataclass
class Refusal:
    """Shards that the server refused for good with one code."""

    code: str
    message: str  # of the first
    shards: int = 0
    examples: int = 0


@dataclass(frozen=True)
class PushReport:
    """Counts of one push; sizes in bytes, times in seconds."""

    dataset: str  # name
    dataset_id: str
    bundle: str  # id
    task: str
    codec: str
    rows: int  # that were read
    skipped: int  # rows that were queued or sent before
    examples: int  # computed now
    truncated: int  # of those, rows that lost tokens
    tokens: int  # computed now
    uploaded_examples: int  # confirmed by the server now, left-overs of earlier pushes too
    uploaded_shards: int
    duplicates: int  # examples that the server already had from this device
    bytes_body: int  # bodies of the uploaded shards before compression, each once
    cpu_seconds: float  # of the whole process, start-up included
    bytes_up: int = 0  # content of the uploads as it travelled, retries too
    wall_seconds: float = 0.0
    parked_shards: int = 0  # of the dataset, refused by the server for good, now or earlier
    parked_examples: int = 0
    refusals: tuple[Refusal, ...] = ()  # why, one per code
    damaged: int = 0  # examples whose body was unreadable on disk: their rows can be pushed again
    bad_rows: int = 0  # that were skipped and reported

    def document(self) -> dict[str, object]:
        """For `--format json`."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person."""
        size = f"{self.bytes_up / 1e6:.2f} MB ({self.bytes_body / 1e6:.2f} MB before compression)"
        found = [
            f"dataset    {self.dataset} ({self.dataset_id}), {self.task}",
            f"rows       {self.rows}; {self.skipped} were already sent or queued",
            f"computed   {self.examples} examples, {self.tokens} tokens",
            f"uploaded   {self.uploaded_examples} examples, {self.uploaded_shards} shards, {size}",
            f"time       {self.wall_seconds:.1f} s, {self.cpu_seconds:.1f} CPU-seconds",
        ]
        if self.truncated:
            found.append(f"truncated  {self.truncated} rows lost tokens beyond the bundle's limit")
        if self.duplicates:
            found.append(f"duplicates {self.duplicates} examples were on the server already")
        if self.damaged:
            found.append(f"damaged    {self.damaged} examples were unreadable: push them again")
        if self.bad_rows:
            found.append(f"bad rows   {self.bad_rows} were skipped")
        for refusal in self.refusals:
            what = f"{refusal.examples} examples in {refusal.shards} shards"
            found.append(f"refused    {what}: {refusal.message} [{refusal.code}]")
        return found

    def refusal(self) -> str:
        """What a command ends with if the server refused anything for good."""
        listed = "; ".join(f"{item.message} [{item.code}]" for item in self.refusals)
        return (
            f"the server refuses {self.parked_examples} examples in {self.parked_shards} shards "
            f"for good: {listed}. They are set aside ({commands(self.dataset_id)})"
        )


def summarize(
    target: Target | None, tally: Tally, totals: Uploaded, parked: Sequence[Waiting]
) -> PushReport:
    """The report of one push; `parked`: what is set aside of the dataset."""
    header = target.header if target else None
    refusals = _group(parked)
    return PushReport(
        dataset=target.name if target else "",
        dataset_id=header.dataset if header else "",
        bundle=header.bundle if header else "",
        task=header.task if header else "",
        codec=header.codec if header else "",
        rows=tally.rows,
        skipped=tally.skipped,
        examples=tally.examples,
        truncated=tally.truncated,
        tokens=tally.tokens,
        uploaded_examples=totals.examples,
        uploaded_shards=totals.shards,
        duplicates=totals.duplicates,
        bytes_body=totals.bytes_body,
        cpu_seconds=time.process_time(),
        parked_shards=sum(item.shards for item in refusals),
        parked_examples=sum(item.examples for item in refusals),
        refusals=refusals,
        damaged=totals.damaged,
        bad_rows=tally.refused,
    )


def _group(parked: Sequence[Waiting]) -> tuple[Refusal, ...]:
    found: dict[str, Refusal] = {}
    for shard in parked:
        code = shard.code or ""
        refusal = found.setdefault(code, Refusal(code, shard.message or ""))
        refusal.shards += 1
        refusal.examples += shard.examples
    return tuple(found.values())
