"""Tables of training: jobs, their events, admissions and checkpoints, and result files.

A job keeps the ids of its datasets without a foreign key: it outlives them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from splitfrozen_server.database.tables import DEFAULT_TENANT, Base


class JobRow(Base):
    """One fine-tuning job."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "tenant_id", "created_at"),
        Index(None, "status"),
        UniqueConstraint("fine_tuned_model"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # ftjob-...
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    position: Mapped[int] = mapped_column(unique=True)  # order of creation: the queue
    status: Mapped[str]
    base_model_id: Mapped[str] = mapped_column(ForeignKey("base_models.id"))
    model: Mapped[str]  # name of the base model
    suffix: Mapped[str]
    fine_tuned_model: Mapped[str]  # name of the adapter; it exists once the job succeeded
    training_dataset_id: Mapped[str]
    validation_dataset_id: Mapped[str | None]
    task: Mapped[str]
    cut: Mapped[int]
    config: Mapped[dict[str, Any]]  # JobConfig: hyperparameters, LoRA, start conditions
    start: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # frozen when training starts
    lease: Mapped[str | None]  # set while a worker holds the job
    worker: Mapped[str | None]
    lease_expires_at: Mapped[float | None]
    attempts: Mapped[int] = mapped_column(default=0)  # leases since the last progress
    idle_sequence: Mapped[int | None]  # left waiting after this shard, for newer ones or the seal
    waiting_for: Mapped[str | None] = mapped_column(Text)  # unmet start conditions, as told
    steps_completed: Mapped[int] = mapped_column(default=0)
    furthest_step: Mapped[int] = mapped_column(default=0)  # highest that any attempt reached
    total_steps: Mapped[int | None]  # unknown until the dataset is sealed
    trained_tokens: Mapped[int] = mapped_column(default=0)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # {code, message, param}
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # metrics and digests at the end
    created_at: Mapped[int]
    finished_at: Mapped[int | None]


class JobEventRow(Base):
    """One event; `id` orders the events of all jobs, `key` stores each of a job's events once."""

    __tablename__ = "job_events"
    __table_args__ = (UniqueConstraint("job_id", "key"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    key: Mapped[str]
    type: Mapped[str]  # message | metrics
    level: Mapped[str]  # info | warn | error
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]
    created_at: Mapped[int]


class JobAdmissionRow(Base):
    """One line of a job's admission log: the pass from `step` on uses shards <= `sequence`."""

    __tablename__ = "job_admissions"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    sequence: Mapped[int]
    sealed: Mapped[bool]


class JobCheckpointRow(Base):
    """A checkpoint that the worker published; the worker keeps the newest two on its disk."""

    __tablename__ = "job_checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"),)

    id: Mapped[str] = mapped_column(primary_key=True)  # ftckpt-...
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    step: Mapped[int]
    name: Mapped[str]  # directory: step and hash
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[int]


class FileRow(Base):
    """A result file, stored by its SHA-256."""

    __tablename__ = "files"
    __table_args__ = (UniqueConstraint("job_id", "purpose"),)

    id: Mapped[str] = mapped_column(primary_key=True)  # file-...
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    purpose: Mapped[str]  # adapter | metrics
    filename: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]  # bytes
    created_at: Mapped[int]
