"""Tables of ingest. Every table has a tenant; times are Unix seconds.

Does not know how training works: jobs have tables of their own on the same `Base`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DEFAULT_TENANT = "default"


class Base(DeclarativeBase):
    """All tables of the server."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: String(255), float: Float, dict[str, Any]: JSON}  # noqa: RUF012


class DeviceRow(Base):
    """An enrolled device."""

    __tablename__ = "devices"

    id: Mapped[str] = mapped_column(primary_key=True)  # dev_...
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    name: Mapped[str]
    profile: Mapped[dict[str, Any]]  # what the device says about itself
    created_at: Mapped[int]
    last_seen_at: Mapped[int | None]  # last accepted shard or recorded heartbeat
    revoked_at: Mapped[int | None]
    heartbeat: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # the last recorded, with `at`


class TokenRow(Base):
    """A bearer token; only its SHA-256 is kept."""

    __tablename__ = "tokens"
    __table_args__ = (UniqueConstraint("hash"),)

    id: Mapped[str] = mapped_column(primary_key=True)  # tok_...
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    role: Mapped[str]  # admin | enrol | device
    name: Mapped[str]
    hash: Mapped[str] = mapped_column(String(64))
    device_id: Mapped[str | None] = mapped_column(ForeignKey("devices.id"))
    uses_left: Mapped[int | None]  # None: unlimited
    expires_at: Mapped[int | None]
    revoked_at: Mapped[int | None]
    created_at: Mapped[int]
    replaces: Mapped[str | None]  # token that this one ends when it is first used


class BaseModelRow(Base):
    """A base model that the operator registered."""

    __tablename__ = "base_models"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)  # bm_...
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    name: Mapped[str]
    source: Mapped[str] = mapped_column(Text)  # Hub id or directory, as it was given
    revision: Mapped[str | None]  # commit of a Hub snapshot; None: a directory
    requested_revision: Mapped[str | None]  # as given, a branch too; None: the newest then
    path: Mapped[str] = mapped_column(Text)  # directory with the weights
    trust_remote_code: Mapped[bool]
    family: Mapped[str]
    num_layers: Mapped[int]
    hidden_size: Mapped[int]
    vocab_size: Mapped[int]
    created_at: Mapped[int]


class BundleRow(Base):
    """A published bundle; its files lie in `bundles/<id>/`."""

    __tablename__ = "bundles"

    tenant_id: Mapped[str] = mapped_column(primary_key=True, default=DEFAULT_TENANT)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of the manifest
    base_model_id: Mapped[str] = mapped_column(ForeignKey("base_models.id"))
    cut: Mapped[int]
    precision: Mapped[str]
    wire: Mapped[str]
    prefix_digest: Mapped[str] = mapped_column(String(64))
    hidden_size: Mapped[int]
    vocab_size: Mapped[int]
    max_length: Mapped[int]  # tokens of one example
    manifest: Mapped[str] = mapped_column(Text)  # the bytes of splitfrozen.json
    size: Mapped[int]  # bytes of all files
    created_at: Mapped[int]


class DatasetRow(Base):
    """An activation dataset; its counters move in the transaction that admits a shard."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)  # ds_...
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    name: Mapped[str]
    base_model_id: Mapped[str] = mapped_column(ForeignKey("base_models.id"))
    cut: Mapped[int]
    task: Mapped[str]  # classification | causal_lm
    open_labels: Mapped[bool]
    max_examples: Mapped[int | None]
    idle_seal: Mapped[float | None]  # seconds after the last shard; None: never
    sealed_at: Mapped[int | None]
    examples: Mapped[int] = mapped_column(default=0)
    tokens: Mapped[int] = mapped_column(default=0)
    shards: Mapped[int] = mapped_column(default=0)
    bytes: Mapped[int] = mapped_column(default=0)
    last_shard_at: Mapped[float | None]
    created_at: Mapped[int]
    last_sequence: Mapped[int] = mapped_column(default=0)  # of the newest shard, erased ones too


class LabelRow(Base):
    """One label name of a dataset; `position` is the id that shards carry."""

    __tablename__ = "labels"
    __table_args__ = (UniqueConstraint("dataset_id", "name"),)

    dataset_id: Mapped[str] = mapped_column(
        ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    name: Mapped[str]


class ShardRow(Base):
    """An admitted shard; its bytes are the blob `digest`."""

    __tablename__ = "shards"
    __table_args__ = (
        UniqueConstraint("dataset_id", "digest"),
        UniqueConstraint("dataset_id", "sequence"),
        ForeignKeyConstraint(["tenant_id", "bundle_id"], ["bundles.tenant_id", "bundles.id"]),
        Index(None, "digest"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # shard_...
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    sequence: Mapped[int]  # 1, 2, ... within the dataset, in the order of admission
    digest: Mapped[str] = mapped_column(String(64))
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    bundle_id: Mapped[str] = mapped_column(String(64))
    codec: Mapped[str]
    precision: Mapped[str]  # of the bundle that made it
    size: Mapped[int]  # bytes, uncompressed
    examples: Mapped[int]
    tokens: Mapped[int]
    created_at: Mapped[int]


class ExampleRow(Base):
    """One admitted example: what is never trained on twice."""

    __tablename__ = "examples"
    __table_args__ = (Index(None, "dataset_id", "sequence"), {"sqlite_with_rowid": False})

    dataset_id: Mapped[str] = mapped_column(
        ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True
    )
    id: Mapped[bytes] = mapped_column(LargeBinary(16), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    sequence: Mapped[int]  # of its shard
    position: Mapped[int]  # within its shard
    tokens: Mapped[int]
    label: Mapped[int | None]  # classification only


class ErasureRow(Base):
    """An erasure: its rows are gone when this row appears, its bytes when `finished_at` is set."""

    __tablename__ = "erasures"

    id: Mapped[str] = mapped_column(primary_key=True)  # era_...
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
    device_id: Mapped[str | None]  # None: a whole dataset was deleted
    datasets: Mapped[list[str]] = mapped_column(JSON)  # ids whose derived files must go
    shards: Mapped[int]
    examples: Mapped[int]
    bytes: Mapped[int]
    adapters: Mapped[list[str]] = mapped_column(JSON)  # names of those that saw the shards
    jobs_stopped: Mapped[list[str]] = mapped_column(JSON)  # ids
    created_at: Mapped[int]
    finished_at: Mapped[int | None]


class ErasedBlobRow(Base):
    """A blob that an unfinished erasure must delete unless another shard needs it."""

    __tablename__ = "erased_blobs"

    erasure_id: Mapped[str] = mapped_column(
        ForeignKey("erasures.id", ondelete="CASCADE"), primary_key=True
    )
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(default=DEFAULT_TENANT)
