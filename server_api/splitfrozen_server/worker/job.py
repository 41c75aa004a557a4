"""A leased job as the control socket describes it. Pure; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from splitfrozen_server.worker.schedule import Boundary

Task = Literal["classification", "causal_lm"]


@dataclass(frozen=True)
class BaseModel:
    """Where the weights of the job's base model are."""

    name: str  # as it is registered on the server
    source: str  # Hub id or directory, as its operator named it
    revision: str | None  # commit of a Hub model
    path: str  # directory with the weights
    hidden_size: int
    trust_remote_code: bool


@dataclass(frozen=True)
class DatasetRef:
    """A dataset whose shards the worker may read."""

    id: str
    name: str
    labels: tuple[str, ...]  # as they were when the job was leased


@dataclass(frozen=True)
class LeasedJob:
    """One job, and everything its worker needs to start it or to go on with it."""

    id: str
    lease: str
    model: BaseModel
    task: Task
    cut: int
    config: dict[str, Any]
    training: DatasetRef
    validation: DatasetRef | None
    prefix_digests: tuple[str, ...]  # of the device segments that made the shards so far
    fine_tuned_model: str
    start: dict[str, Any] | None  # what `start` recorded; None before the first start
    admissions: tuple[Boundary, ...]

    @classmethod
    def parse(cls, record: dict[str, Any]) -> LeasedJob:
        validation = record["validation"]
        return cls(
            id=record["id"],
            lease=record["lease"],
            model=BaseModel(**record["model"]),
            task=record["task"],
            cut=record["cut"],
            config=record["config"],
            training=_dataset(record["training"]),
            validation=None if validation is None else _dataset(validation),
            prefix_digests=tuple(record["prefix_digests"]),
            fine_tuned_model=record["fine_tuned_model"],
            start=record["start"],
            admissions=tuple(Boundary(**entry) for entry in record["admissions"]),
        )


@dataclass(frozen=True)
class ShardRef:
    """An admitted shard and the file that holds its body."""

    sequence: int
    digest: str
    path: str


@dataclass(frozen=True)
class Arrivals:
    """The shards of a dataset after some sequence number, at one instant."""

    shards: tuple[ShardRef, ...]
    sealed: bool
    status: str  # of the job
    others_waiting: bool  # another job has work to do


def _dataset(record: dict[str, Any]) -> DatasetRef:
    return DatasetRef(record["id"], record["name"], tuple(record["labels"]))
