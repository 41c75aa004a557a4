"""What a job freezes when it starts: label names, thread count, the validation shards."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from splitfrozen_server.worker.control_client import ControlClient
from splitfrozen_server.worker.data import HeldOut, fetch, validation_labels
from splitfrozen_server.worker.job import LeasedJob
from splitfrozen_server.worker.materialise import TrainingFile
from splitfrozen_server.worker.workspace import Workspace


@dataclass(frozen=True)
class StartRecord:
    """Stored by the API before the first step; every later attempt goes by it."""

    labels: list[str]
    validation_labels: list[str]
    validation_sequence: int  # newest shard of the validation dataset that counts
    threads: int  # sums depend on how they are split over threads
    torch: str

    @classmethod
    def parse(cls, record: dict[str, Any]) -> StartRecord:
        return cls(**record)


def freeze_start(job: LeasedJob, control: ControlClient) -> StartRecord:
    """Record the start, or read the record of an earlier attempt, and obey its thread count."""
    stored = job.start
    if stored is None:
        validation = job.validation
        newest = 0
        if validation is not None:
            shards = control.arrivals(job, validation.id, 0).shards
            newest = shards[-1].sequence if shards else 0
        record = StartRecord(
            labels=list(job.training.labels),
            validation_labels=[] if validation is None else list(validation.labels),
            validation_sequence=newest,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
        )
        stored = control.start(job, asdict(record))
    start = StartRecord.parse(stored)
    torch.set_num_threads(start.threads)
    return start


def open_dataset(
    job: LeasedJob, dataset: str, control: ControlClient, workspace: Workspace
) -> TrainingFile:
    """The dataset's training file, with no shard that the server does not list at its place."""
    file = workspace.training_file(dataset)
    listed = control.arrivals(job, dataset, 0).shards
    file.agree([(shard.sequence, shard.digest) for shard in listed])
    return file


def held_out_dataset(
    job: LeasedJob, start: StartRecord, control: ControlClient, workspace: Workspace
) -> HeldOut | None:
    """The frozen part of the validation dataset, or None if the job names none."""
    if job.validation is None:
        return None
    labels = None
    if job.task == "classification":
        labels = validation_labels(start.validation_labels, start.labels)
    file = open_dataset(job, job.validation.id, control, workspace)
    fetch(file, control.arrivals(job, job.validation.id, file.last_sequence).shards)
    rows: list[int] = []
    for shard in file.shards(0, start.validation_sequence):
        found = np.arange(shard.first, shard.first + len(shard.lengths))
        if labels is not None and shard.labels is not None:
            # A label may have been added between freezing the list and listing the shards.
            found = found[np.isin(shard.labels, list(labels))]
        rows += found.tolist()
    return HeldOut(file, rows, labels)
