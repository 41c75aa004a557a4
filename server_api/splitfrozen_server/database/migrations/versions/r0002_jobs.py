"""Tables of training: jobs, events, admissions, checkpoints, files."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    _create_jobs()
    _create_events()
    _create_admissions()
    _create_checkpoints()
    _create_files()


def downgrade() -> None:
    """Drop the tables."""
    for table in ("files", "job_checkpoints", "job_admissions", "job_events", "jobs"):
        op.drop_table(table)


def _tenant() -> "sa.Column[str]":
    return sa.Column("tenant_id", sa.String(255), nullable=False)


def _job_id() -> "sa.Column[str]":
    return sa.Column("job_id", sa.String(255), nullable=False)


def _of_job(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["job_id"], ["jobs.id"], name=f"fk_{table}_job_id_jobs", ondelete="CASCADE"
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(255), nullable=False),
        _tenant(),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(255), nullable=False),
        sa.Column("base_model_id", sa.String(255), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("suffix", sa.String(255), nullable=False),
        sa.Column("fine_tuned_model", sa.String(255), nullable=False),
        sa.Column("training_dataset_id", sa.String(255), nullable=False),
        sa.Column("validation_dataset_id", sa.String(255)),
        sa.Column("task", sa.String(255), nullable=False),
        sa.Column("cut", sa.Integer(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("start", sa.JSON()),
        sa.Column("lease", sa.String(255)),
        sa.Column("worker", sa.String(255)),
        sa.Column("lease_expires_at", sa.Float()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("idle_sequence", sa.Integer()),
        sa.Column("waiting_for", sa.Text()),
        sa.Column("steps_completed", sa.Integer(), nullable=False),
        sa.Column("furthest_step", sa.Integer(), nullable=False),
        sa.Column("total_steps", sa.Integer()),
        sa.Column("trained_tokens", sa.Integer(), nullable=False),
        sa.Column("error", sa.JSON()),
        sa.Column("result", sa.JSON()),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("position", name="uq_jobs_position"),
        sa.UniqueConstraint("fine_tuned_model", name="uq_jobs_fine_tuned_model"),
        sa.ForeignKeyConstraint(
            ["base_model_id"], ["base_models.id"], name="fk_jobs_base_model_id_base_models"
        ),
    )
    op.create_index("ix_jobs_tenant_id_created_at", "jobs", ["tenant_id", "created_at"])
    op.create_index("ix_jobs_status", "jobs", ["status"])


def _create_events() -> None:
    op.create_table(
        "job_events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        _tenant(),
        _job_id(),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("type", sa.String(255), nullable=False),
        sa.Column("level", sa.String(255), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_job_events"),
        sa.UniqueConstraint("job_id", "key", name="uq_job_events_job_id_key"),
        _of_job("job_events"),
    )


def _create_admissions() -> None:
    op.create_table(
        "job_admissions",
        _job_id(),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        _tenant(),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "step", name="pk_job_admissions"),
        _of_job("job_admissions"),
    )


def _create_checkpoints() -> None:
    op.create_table(
        "job_checkpoints",
        sa.Column("id", sa.String(255), nullable=False),
        _tenant(),
        _job_id(),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_job_checkpoints"),
        sa.UniqueConstraint("job_id", "step", name="uq_job_checkpoints_job_id_step"),
        _of_job("job_checkpoints"),
    )


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(255), nullable=False),
        _tenant(),
        _job_id(),
        sa.Column("purpose", sa.String(255), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
        sa.UniqueConstraint("job_id", "purpose", name="uq_files_job_id_purpose"),
        _of_job("files"),
    )
