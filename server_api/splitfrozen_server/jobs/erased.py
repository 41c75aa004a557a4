"""What an erasure means for jobs. Runs inside the transaction that removes the shards.

A job that had admitted an erased shard can neither go on with it nor pretend that it was never
there: it ends as failed with `data_erased`. One that had not is interrupted: its worker leaves it,
throws its copy of the shards away and takes it up again without them.
"""

from __future__ import annotations

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from splitfrozen_server.database.job_tables import JobAdmissionRow, JobRow
from splitfrozen_server.jobs import leases, state
from splitfrozen_server.jobs.events import add_event

_STOPPED = (
    "a device's owner erased shards that this job was trained on; make a new job on what is left"
)
_LEFT_OUT = "shards were erased before this job was trained on them; it goes on without them"


def interrupt_jobs(
    session: Session, erasure_id: str, dataset_id: str, first: int
) -> tuple[list[str], list[str]]:
    """(names of adapters trained on erased shards, ids of jobs that were ended for it).

    `first` is the lowest sequence number that is erased from the dataset.
    """
    adapters: list[str] = []
    stopped: list[str] = []
    query = select(JobRow).where(
        or_(JobRow.training_dataset_id == dataset_id, JobRow.validation_dataset_id == dataset_id)
    )
    for job in session.scalars(query.order_by(JobRow.position)).all():
        trained = job.training_dataset_id == dataset_id and _admitted(session, job) >= first
        if job.status == "succeeded" and trained:
            adapters.append(job.fine_tuned_model)
        if job.status in state.ENDED:
            continue
        if trained:
            state.fail(session, job, "data_erased", _STOPPED, "training_file")
            stopped.append(job.id)
        elif job.start is not None or job.lease is not None:
            add_event(session, job, f"left_out:{erasure_id}", _LEFT_OUT, level="warn")
        leases.release(job)  # whoever works on it learns so with its next word
    return adapters, stopped


def _admitted(session: Session, job: JobRow) -> int:
    """The newest shard of the job's admission log; 0 without one."""
    query = select(func.max(JobAdmissionRow.sequence)).where(JobAdmissionRow.job_id == job.id)
    return session.scalar(query) or 0
