"""The life of a job: validating_files -> queued -> running -> succeeded | failed | cancelled.

`paused` is left by `resume`. Functions run inside a write and leave the commit to their caller.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.database.job_tables import JobRow
from splitfrozen_server.database.tables import BaseModelRow, DatasetRow
from splitfrozen_server.datasets import find_dataset
from splitfrozen_server.identifiers import now
from splitfrozen_server.jobs.events import add_event
from splitfrozen_server.jobs.names import adapter_name, new_job_id
from splitfrozen_server.jobs.request import CreateJob, job_config

ENDED = ("succeeded", "failed", "cancelled")


def create(session: Session, tenant_id: str, request: CreateJob) -> JobRow:
    """Check a request against what the server has and queue the job."""
    base = _base_model(session, tenant_id, request.model)
    training = _dataset(session, tenant_id, request.training_file, "training_file")
    _check_dataset(training, base, "training_file")
    validation = None
    if request.validation_file is not None:
        validation = _dataset(session, tenant_id, request.validation_file, "validation_file")
        _check_dataset(validation, base, "validation_file")
        _check_agreement(training, validation)
    job_id = new_job_id()
    suffix = request.suffix or training.name
    job = JobRow(
        id=job_id,
        tenant_id=tenant_id,
        position=(session.scalar(select(func.max(JobRow.position))) or 0) + 1,
        status="validating_files",
        base_model_id=base.id,
        model=base.name,
        suffix=suffix,
        fine_tuned_model=adapter_name(base.name, suffix, job_id),
        training_dataset_id=training.id,
        validation_dataset_id=None if validation is None else validation.id,
        task=training.task,
        cut=training.cut,
        config=job_config(request, training.task),
        created_at=now(),
    )
    session.add(job)
    session.flush()
    add_event(session, job, "created", f"Created fine-tuning job: {job.id}")
    job.status = "queued"
    add_event(session, job, "queued", "Files validated, job queued")
    return job


def cancel(session: Session, job: JobRow) -> None:
    """End the job; its worker stops at the next step."""
    if job.status in ENDED:
        raise RefusedError("job_not_active", f"{job.id} has already {job.status}")
    _end(job, "cancelled")
    add_event(session, job, "cancelled", "The job was cancelled", level="warn")


def pause(session: Session, job: JobRow) -> None:
    """Stop after the step that is being made; pausing twice is harmless."""
    if job.status in ENDED:
        raise RefusedError("job_not_active", f"{job.id} has already {job.status}")
    if job.status != "paused":
        job.status = "paused"
        _add_numbered(session, job, "paused", "The job was paused")


def resume(session: Session, job: JobRow) -> None:
    """Queue a paused job again; with a worker still on it, it just goes on."""
    if job.status != "paused":
        raise RefusedError("job_not_active", f"{job.id} is {job.status}, not paused")
    job.status = "queued" if job.lease is None else "running"
    _add_numbered(session, job, "resumed", "The job was resumed")


def fail(session: Session, job: JobRow, code: str, message: str, param: str | None) -> None:
    """End the job with an error that its owner can act on."""
    _end(job, "failed")
    job.error = {"code": code, "message": message, "param": param}
    add_event(session, job, "failed", f"The job failed: {message}", level="error", code=code)


def succeed(session: Session, job: JobRow, result: dict[str, Any]) -> None:
    """The adapter is stored: give it its name."""
    _end(job, "succeeded")
    job.result = result
    add_event(session, job, "model", f"New fine-tuned model created: {job.fine_tuned_model}")
    add_event(session, job, "succeeded", "The job has successfully completed", **result)


def require_running(job: JobRow) -> None:
    """`job_not_active` for a job that was paused or cancelled meanwhile."""
    if job.status != "running":
        raise RefusedError("job_not_active", f"{job.id} is {job.status}, not running")


def find_job(session: Session, tenant_id: str, job_id: str) -> JobRow:
    """The tenant's job; `not_found` otherwise."""
    job = session.get(JobRow, job_id)
    if job is None or job.tenant_id != tenant_id:
        raise RefusedError("not_found", f"there is no fine-tuning job {job_id[:80]!r}")
    return job


def _base_model(session: Session, tenant_id: str, name: str) -> BaseModelRow:
    query = select(BaseModelRow).where(BaseModelRow.tenant_id == tenant_id)
    if (found := session.scalar(query.where(BaseModelRow.name == name))) is None:
        raise RefusedError("not_found", f"there is no base model {name[:80]!r}", param="model")
    return found


def _dataset(session: Session, tenant_id: str, key: str, param: str) -> DatasetRow:
    try:
        return find_dataset(session, tenant_id, key)
    except RefusedError as error:
        raise RefusedError(error.code, error.message, param=param) from None


def _check_dataset(dataset: DatasetRow, base: BaseModelRow, param: str) -> None:
    if dataset.base_model_id != base.id:
        raise RefusedError(
            "dataset_mismatch",
            f"dataset {dataset.name!r} holds activations of another base model than {base.name!r}",
            param=param,
        )


def _check_agreement(training: DatasetRow, validation: DatasetRow) -> None:
    if training.id == validation.id:
        raise RefusedError(
            "invalid_request",
            "the validation dataset is the training dataset; hold out a part of it with "
            "eval_fraction instead",
            param="validation_file",
        )
    for name in ("task", "cut"):
        ours, theirs = getattr(training, name), getattr(validation, name)
        if ours != theirs:
            raise RefusedError(
                "dataset_mismatch",
                f"the validation dataset has {name} {theirs}, the training dataset {ours}",
                param="validation_file",
            )


def _end(job: JobRow, status: str) -> None:
    job.status = status
    job.finished_at = now()
    job.waiting_for = None


def _add_numbered(session: Session, job: JobRow, key: str, text: str) -> None:
    """An event that may happen more than once."""
    add_event(session, job, f"{key}:{job.steps_completed}:{now()}", text)
