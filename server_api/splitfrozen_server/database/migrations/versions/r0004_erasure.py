"""Erasure, token rotation, heartbeats; sequence numbers that outlive their shards."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Until now nothing was erased, so a dataset's count is its newest sequence number."""
    # With a default and not in a batch: SQLite would drop the table, and its shards with it.
    sequence = sa.Column("last_sequence", sa.Integer(), nullable=False, server_default="0")
    op.add_column("datasets", sequence)
    op.execute("UPDATE datasets SET last_sequence = shards")
    op.add_column("devices", sa.Column("heartbeat", sa.JSON(), nullable=True))
    op.add_column("tokens", sa.Column("replaces", sa.String(255), nullable=True))
    _create_erasures()
    _create_erased_blobs()


def downgrade() -> None:
    """Drop tables and columns."""
    op.drop_table("erased_blobs")
    op.drop_table("erasures")
    op.drop_column("tokens", "replaces")
    op.drop_column("devices", "heartbeat")
    op.drop_column("datasets", "last_sequence")


def _create_erasures() -> None:
    op.create_table(
        "erasures",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("tenant_id", sa.String(255), nullable=False),
        sa.Column("device_id", sa.String(255)),
        sa.Column("datasets", sa.JSON(), nullable=False),
        sa.Column("shards", sa.Integer(), nullable=False),
        sa.Column("examples", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("adapters", sa.JSON(), nullable=False),
        sa.Column("jobs_stopped", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_erasures"),
    )


def _create_erased_blobs() -> None:
    op.create_table(
        "erased_blobs",
        sa.Column("erasure_id", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(
            ["erasure_id"],
            ["erasures.id"],
            name="fk_erased_blobs_erasure_id_erasures",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("erasure_id", "digest", name="pk_erased_blobs"),
    )
