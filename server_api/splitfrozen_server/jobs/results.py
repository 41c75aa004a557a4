"""Result files: the adapter that the worker left, and the metrics as a table. Blocking calls."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.blobs import BlobStore
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.database.job_tables import FileRow, JobEventRow, JobRow
from splitfrozen_server.identifiers import new_id, now

COLUMNS = (
    "step",
    "epoch",
    "train_loss",
    "learning_rate",
    "valid_loss",
    "valid_accuracy",
    "valid_perplexity",
)
_MEDIA_TYPES = {"adapter": "application/x-tar", "metrics": "text/csv"}


def file_store(config: ServerConfig) -> BlobStore:
    """Where result files lie; apart from shards, which have rows of their own."""
    return _open_store(config.data_dir / "files")


@functools.cache  # opening makes and flushes directories: once a process is enough
def _open_store(root: Path) -> BlobStore:
    return BlobStore(root)


def store_adapter(config: ServerConfig, path: Path, expected: str) -> int:
    """Copy the packed adapter into the store and return its size."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise RefusedError("hash_mismatch", f"the adapter hashes to {found}, not {expected}")
    file_store(config).put(content, found)
    return len(content)


def store_metrics(config: ServerConfig, table: bytes) -> str:
    """Store the metrics table and return its digest."""
    digest = hashlib.sha256(table).hexdigest()
    file_store(config).put(table, digest)
    return digest


def metrics_table(events: Iterable[JobEventRow]) -> bytes:
    """step_metrics.csv: one line a metrics event, empty where it has no such number."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for event in events:
        writer.writerow(event.data)
    return sink.getvalue().encode()


def add_file(
    session: Session, job: JobRow, purpose: str, filename: str, digest: str, size: int
) -> None:
    """List a stored file as the job's result, once."""
    query = select(FileRow.id).where(FileRow.job_id == job.id, FileRow.purpose == purpose)
    if session.scalar(query) is not None:
        return
    session.add(
        FileRow(
            id=new_id("file-"),
            tenant_id=job.tenant_id,
            job_id=job.id,
            purpose=purpose,
            filename=filename,
            sha256=digest,
            size=size,
            created_at=now(),
        )
    )


def media_type(purpose: str) -> str:
    return _MEDIA_TYPES[purpose]
