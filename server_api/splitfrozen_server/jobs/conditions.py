"""When a job may start training, and why it may not yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from splitfrozen_server.database.job_tables import JobRow
from splitfrozen_server.database.tables import DatasetRow, ExampleRow, ShardRow
from splitfrozen_server.datasets import read_labels


@dataclass(frozen=True)
class Unmet:
    """A start condition that does not hold."""

    name: str  # min_examples | min_devices | min_per_label | labels
    text: str  # "80 of 100 examples"


def unmet_conditions(session: Session, job: JobRow, dataset: DatasetRow) -> list[Unmet]:
    """What the job still waits for, in words; empty when it may start."""
    return [*_counts(session, job, dataset), *_labels(session, job, dataset)]


def _counts(session: Session, job: JobRow, dataset: DatasetRow) -> Iterator[Unmet]:
    examples = job.config["min_examples"] or 1
    if dataset.examples < examples:
        yield Unmet("min_examples", f"{dataset.examples} of {examples} examples")
    devices = job.config["min_devices"]
    if devices is not None:
        query = select(func.count(ShardRow.device_id.distinct()))
        found = session.scalar(query.where(ShardRow.dataset_id == dataset.id)) or 0
        if found < devices:
            yield Unmet("min_devices", f"{found} of {devices} devices")


def _labels(session: Session, job: JobRow, dataset: DatasetRow) -> Iterator[Unmet]:
    if dataset.task != "classification":
        return
    names = read_labels(session, dataset.id)
    if len(names) < 2:
        yield Unmet("labels", f"{len(names)} of at least 2 labels")
    if dataset.open_labels and dataset.sealed_at is None and not _was_told_when(job):
        # The list is frozen at the start, so an open one must have had time to grow.
        yield Unmet(
            "labels", "the seal (labels are open and no start condition was given: `datasets seal`)"
        )
    wanted = job.config["min_per_label"]
    if wanted is not None:
        yield from _per_label(session, dataset, names, wanted)


def _was_told_when(job: JobRow) -> bool:
    return any(
        job.config[name] is not None for name in ("min_examples", "min_devices", "min_per_label")
    )


def _per_label(
    session: Session, dataset: DatasetRow, names: list[str], wanted: int
) -> Iterator[Unmet]:
    query = select(ExampleRow.label, func.count()).where(ExampleRow.dataset_id == dataset.id)
    counts = {label: count for label, count in session.execute(query.group_by(ExampleRow.label))}
    short = [
        f"{counts.get(place, 0)} of {wanted} examples of {name!r}"
        for place, name in enumerate(names)
        if counts.get(place, 0) < wanted
    ]
    if short:
        more = f" and {len(short) - 3} more labels" if len(short) > 3 else ""
        yield Unmet("min_per_label", ", ".join(short[:3]) + more)
