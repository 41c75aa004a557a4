"""Tables of ingest: tokens, devices, base models, bundles, datasets, labels, shards, examples."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    _create_identities()
    _create_models()
    _create_datasets()
    _create_shards()


def downgrade() -> None:
    """Drop the tables."""
    for table in (
        "examples",
        "shards",
        "labels",
        "datasets",
        "bundles",
        "base_models",
        "tokens",
        "devices",
    ):
        op.drop_table(table)


def _tenant() -> "sa.Column[str]":
    return sa.Column("tenant_id", sa.String(255), nullable=False)


def _create_identities() -> None:
    op.create_table(
        "devices",
        sa.Column("id", sa.String(255), nullable=False),
        _tenant(),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("profile", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("last_seen_at", sa.Integer()),
        sa.Column("revoked_at", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(255), nullable=False),
        _tenant(),
        sa.Column("role", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("device_id", sa.String(255)),
        sa.Column("uses_left", sa.Integer()),
        sa.Column("expires_at", sa.Integer()),
        sa.Column("revoked_at", sa.Integer()),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name="fk_tokens_device_id_devices"),
    )


def _create_models() -> None:
    op.create_table(
        "base_models",
        sa.Column("id", sa.String(255), nullable=False),
        _tenant(),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("revision", sa.String(255)),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("trust_remote_code", sa.Boolean(), nullable=False),
        sa.Column("family", sa.String(255), nullable=False),
        sa.Column("num_layers", sa.Integer(), nullable=False),
        sa.Column("hidden_size", sa.Integer(), nullable=False),
        sa.Column("vocab_size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_base_models"),
        sa.UniqueConstraint("tenant_id", "name", name="uq_base_models_tenant_id_name"),
    )
    op.create_table(
        "bundles",
        _tenant(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("base_model_id", sa.String(255), nullable=False),
        sa.Column("cut", sa.Integer(), nullable=False),
        sa.Column("precision", sa.String(255), nullable=False),
        sa.Column("wire", sa.String(255), nullable=False),
        sa.Column("prefix_digest", sa.String(64), nullable=False),
        sa.Column("hidden_size", sa.Integer(), nullable=False),
        sa.Column("vocab_size", sa.Integer(), nullable=False),
        sa.Column("max_length", sa.Integer(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_bundles"),
        sa.ForeignKeyConstraint(
            ["base_model_id"], ["base_models.id"], name="fk_bundles_base_model_id_base_models"
        ),
    )


def _create_datasets() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(255), nullable=False),
        _tenant(),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("base_model_id", sa.String(255), nullable=False),
        sa.Column("cut", sa.Integer(), nullable=False),
        sa.Column("task", sa.String(255), nullable=False),
        sa.Column("open_labels", sa.Boolean(), nullable=False),
        sa.Column("max_examples", sa.Integer()),
        sa.Column("idle_seal", sa.Float()),
        sa.Column("sealed_at", sa.Integer()),
        sa.Column("examples", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("shards", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("last_shard_at", sa.Float()),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
        sa.UniqueConstraint("tenant_id", "name", name="uq_datasets_tenant_id_name"),
        sa.ForeignKeyConstraint(
            ["base_model_id"], ["base_models.id"], name="fk_datasets_base_model_id_base_models"
        ),
    )
    op.create_table(
        "labels",
        sa.Column("dataset_id", sa.String(255), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        _tenant(),
        sa.Column("name", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", "position", name="pk_labels"),
        sa.UniqueConstraint("dataset_id", "name", name="uq_labels_dataset_id_name"),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
            name="fk_labels_dataset_id_datasets",
            ondelete="CASCADE",
        ),
    )


def _create_shards() -> None:
    op.create_table(
        "shards",
        sa.Column("id", sa.String(255), nullable=False),
        _tenant(),
        sa.Column("dataset_id", sa.String(255), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("device_id", sa.String(255), nullable=False),
        sa.Column("bundle_id", sa.String(64), nullable=False),
        sa.Column("codec", sa.String(255), nullable=False),
        sa.Column("precision", sa.String(255), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("examples", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_shards"),
        sa.UniqueConstraint("dataset_id", "digest", name="uq_shards_dataset_id_digest"),
        sa.UniqueConstraint("dataset_id", "sequence", name="uq_shards_dataset_id_sequence"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "bundle_id"],
            ["bundles.tenant_id", "bundles.id"],
            name="fk_shards_tenant_id_bundle_id_bundles",
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
            name="fk_shards_dataset_id_datasets",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name="fk_shards_device_id_devices"),
    )
    op.create_index("ix_shards_digest", "shards", ["digest"])
    op.create_table(
        "examples",
        sa.Column("dataset_id", sa.String(255), nullable=False),
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        _tenant(),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("label", sa.Integer()),
        sa.PrimaryKeyConstraint("dataset_id", "id", name="pk_examples"),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
            name="fk_examples_dataset_id_datasets",
            ondelete="CASCADE",
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_examples_dataset_id_sequence", "examples", ["dataset_id", "sequence"])
