"""Which job a worker gets next: first come, first served, among those that have work to do.

A lease expires unless its worker speaks up, and a worker that comes back under its name takes its
own lease over at once. Everything a worker says about a job carries the lease, so a worker that
lost it cannot touch the job any more. A job whose workers end again and again without one more
step would be the first in the queue for ever: after MAX_ATTEMPTS such leases it fails.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.database.job_tables import JobRow
from splitfrozen_server.database.tables import DatasetRow, ErasureRow
from splitfrozen_server.identifiers import new_id
from splitfrozen_server.jobs.conditions import Unmet, unmet_conditions
from splitfrozen_server.jobs.events import add_event
from splitfrozen_server.jobs.messages import Progress
from splitfrozen_server.jobs.state import fail

LEASE_SECONDS = 60.0
MAX_ATTEMPTS = 3
_WORN_OUT = (
    f"the worker ended {MAX_ATTEMPTS} times without one more step, probably out of memory; the "
    "server's log has its last words: lower batch_size or LoRA's r, or give the server more memory"
)


@dataclass(frozen=True)
class Hopeless:
    """Why a job can never go on."""

    code: str
    reason: str
    param: str | None


@dataclass
class Decision:
    """What looking through the queue found; `changes` says whether anything must be written."""

    job_id: str | None = None
    waiting: dict[str, tuple[str, str]] = field(default_factory=dict)  # job -> (kinds, text)
    hopeless: dict[str, Hopeless] = field(default_factory=dict)  # by job

    @property
    def changes(self) -> bool:
        return bool(self.job_id or self.waiting or self.hopeless)


def decide(session: Session, worker: str, *, besides: str | None = None) -> Decision:
    """Look through the queue, leaving out the job `besides`, without changing anything."""
    decision = Decision()
    erasing = _being_erased(session)
    for job in _free_jobs(session, worker):
        if job.id == besides or {job.training_dataset_id, job.validation_dataset_id} & erasing:
            continue
        dataset = session.get(DatasetRow, job.training_dataset_id)
        if dataset is None:
            decision.hopeless[job.id] = _bad_data("the training dataset was deleted")
        elif job.attempts >= MAX_ATTEMPTS:
            decision.hopeless[job.id] = Hopeless("internal_error", _WORN_OUT, None)
        elif job.start is not None:
            if has_news(job, dataset):
                decision.job_id = job.id
        elif not (unmet := unmet_conditions(session, job, dataset)):
            decision.job_id = job.id
        else:
            _judge(decision, job, dataset, unmet)
        if decision.job_id:
            break
    return decision


def grant(session: Session, worker: str) -> JobRow | None:
    """Decide, write the consequences, and lease the chosen job to `worker`."""
    decision = decide(session, worker)
    for job_id, (kinds, text) in decision.waiting.items():
        job = session.get_one(JobRow, job_id)
        job.waiting_for = text
        add_event(session, job, f"waiting:{kinds}", f"Waiting for training data: {text}")
    for job_id, why in decision.hopeless.items():
        job = session.get_one(JobRow, job_id)
        fail(session, job, why.code, why.reason, why.param)
        release(job)
    if decision.job_id is None:
        return None
    job = session.get_one(JobRow, decision.job_id)
    job.lease, job.worker = new_id("lease_"), worker
    job.attempts += 1
    job.lease_expires_at = time.time() + LEASE_SECONDS
    job.status, job.waiting_for, job.idle_sequence = "running", None, None
    return job


def leased(session: Session, job_id: str, lease: str) -> JobRow:
    """The job that this lease holds, kept alive; `job_not_active` if it was lost."""
    job = session.get(JobRow, job_id)
    if job is None or job.lease != lease:
        raise RefusedError("job_not_active", f"{job_id} is not leased to this worker any more")
    return job


def renew(job: JobRow) -> None:
    """The worker spoke up."""
    job.lease_expires_at = time.time() + LEASE_SECONDS


def advance(job: JobRow, progress: Progress) -> None:
    """Take over how far the worker has come; whoever gets further, or all the way, is well."""
    job.steps_completed = progress.steps_completed
    job.total_steps = progress.total_steps
    job.trained_tokens = progress.trained_tokens
    if progress.waiting or progress.steps_completed > job.furthest_step:
        job.attempts = 0
    job.furthest_step = max(job.furthest_step, progress.steps_completed)


def release(job: JobRow, *, idle_sequence: int | None = None) -> None:
    """Nobody works on the job; after `idle_sequence` only newer shards or the seal are news."""
    job.attempts = 0  # its worker lives to tell
    job.lease = job.worker = job.lease_expires_at = None
    job.idle_sequence = idle_sequence


def forgive(session: Session) -> None:
    """Forget all attempts: a server that starts anew ended them, not the jobs."""
    session.execute(update(JobRow).values(attempts=0))


def has_news(job: JobRow, dataset: DatasetRow) -> bool:
    """Whether a started job could go on; one that was not left idle always can."""
    if job.idle_sequence is None or dataset.sealed_at is not None:
        return True
    return dataset.last_sequence > job.idle_sequence


def _being_erased(session: Session) -> set[str | None]:
    """Datasets whose copies are being deleted: a worker must not begin another one."""
    pending = session.scalars(select(ErasureRow.datasets).where(ErasureRow.finished_at.is_(None)))
    return {dataset for datasets in pending for dataset in datasets}


def _free_jobs(session: Session, worker: str) -> Iterator[JobRow]:
    query = select(JobRow).where(JobRow.status.in_(("queued", "running")))
    for job in session.scalars(query.order_by(JobRow.position)):
        expired = (job.lease_expires_at or 0) < time.time()
        if job.lease is None or job.worker == worker or expired:
            yield job


def _judge(decision: Decision, job: JobRow, dataset: DatasetRow, unmet: list[Unmet]) -> None:
    text = "; ".join(condition.text for condition in unmet)
    if dataset.sealed_at is not None:
        decision.hopeless[job.id] = _bad_data(f"the dataset is sealed with {text}")
    elif job.waiting_for != text:
        kinds = ",".join(sorted({condition.name for condition in unmet}))
        decision.waiting[job.id] = (kinds, text)


def _bad_data(reason: str) -> Hopeless:
    return Hopeless("bad_data", reason, "training_file")
