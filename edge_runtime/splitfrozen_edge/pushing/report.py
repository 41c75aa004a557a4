"""What a push did, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class PushReport:
    """Counts of one push; sizes in bytes, times in seconds."""

    dataset: str  # name
    dataset_id: str
    bundle: str  # id
    task: str
    codec: str
    rows: int  # in the data file
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
        return found
