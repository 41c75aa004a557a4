"""Rows -> the JSON objects of the API, in OpenAI's shapes with our fields beside theirs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen_server.database.job_tables import FileRow, JobCheckpointRow, JobRow
from splitfrozen_server.database.tables import BaseModelRow, BundleRow
from splitfrozen_server.jobs.state import ENDED

OWNER = "splitfrozen"


def job_record(session: Session, job: JobRow) -> dict[str, Any]:
    """The `fine_tuning.job` object."""
    files = select(FileRow.id).where(FileRow.job_id == job.id).order_by(FileRow.purpose)
    hyperparameters = {
        name: job.config[name] for name in ("n_epochs", "batch_size", "learning_rate_multiplier")
    }
    supervised = {"hyperparameters": hyperparameters}
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "status": job.status,
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model if job.status == "succeeded" else None,
        "organization_id": job.tenant_id,
        "training_file": job.training_dataset_id,
        "validation_file": job.validation_dataset_id,
        "result_files": list(session.scalars(files)),
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": supervised},
        "seed": job.config["seed"],
        "trained_tokens": job.trained_tokens if job.status in ENDED else None,
        "error": job.error,
        "integrations": [],
        "user_provided_suffix": job.suffix,
        "steps_completed": job.steps_completed,
        "total_steps": job.total_steps,
        "splitfrozen": _ours(job),
    }


def _ours(job: JobRow) -> dict[str, Any]:
    shown = {k: v for k, v in job.config.items() if k not in ("n_epochs", "batch_size", "seed")}
    shown.pop("learning_rate_multiplier")
    return {
        **shown,
        "task": job.task,
        "cut": job.cut,
        "waiting_for": job.waiting_for,
        "result": job.result,
    }


def checkpoint_record(row: JobCheckpointRow, job: JobRow) -> dict[str, Any]:
    """The `fine_tuning.job.checkpoint` object."""
    return {
        "id": row.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": row.created_at,
        "fine_tuned_model_checkpoint": f"{job.fine_tuned_model}:ckpt-step-{row.step}",
        "fine_tuning_job_id": row.job_id,
        "step_number": row.step,
        "metrics": row.metrics,
        "splitfrozen": {"name": row.name},
    }


def file_record(row: FileRow) -> dict[str, Any]:
    """The `file` object."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.size,
        "created_at": row.created_at,
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "sha256": row.sha256,
        "fine_tuning_job_id": row.job_id,
    }


def base_model_record(row: BaseModelRow) -> dict[str, Any]:
    """The `model` object of a base model."""
    ours = {"kind": "base_model", "family": row.family, "num_layers": row.num_layers}
    return _model(row.name, row.created_at, ours)


def adapter_record(session: Session, job: JobRow) -> dict[str, Any]:
    """The `model` object of an adapter: all that a device needs to ask it something."""
    bundles = select(BundleRow.id).where(
        BundleRow.base_model_id == job.base_model_id, BundleRow.cut == job.cut
    )
    start, result = job.start or {}, job.result or {}
    ours = {
        "kind": "adapter",
        "base_model": job.model,
        "cut": job.cut,
        "task": job.task,
        "labels": start.get("labels", []),
        "bundles": list(session.scalars(bundles.order_by(BundleRow.created_at))),
        "fine_tuning_job": job.id,
        "metrics": result.get("metrics", {}),
    }
    return _model(job.fine_tuned_model, job.finished_at or job.created_at, ours)


def _model(name: str, created: int, ours: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": OWNER,
        "splitfrozen": ours,
    }
