"""Activation datasets: create, list, label, seal, delete."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.auth import Admin, AdminOrDevice, Identity
from splitfrozen_server.base_models import find_base_model
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.database.tables import BaseModelRow, BundleRow, DatasetRow
from splitfrozen_server.datasets import (
    ID_PREFIX,
    DatasetRecord,
    append_labels,
    describe,
    find_dataset,
    insert_dataset,
    list_datasets,
    seal_dataset,
)
from splitfrozen_server.erasure import erase_dataset
from splitfrozen_server.routes.shapes import Count, Deleted, Input, Name, Page, Text
from splitfrozen_server.services import Use

router = APIRouter(prefix="/v1/activation_datasets", tags=["datasets"])

Labels = Annotated[list[Text], Field(min_length=1, max_length=10_000)]


class NewDataset(Input):
    """A dataset to create. Given labels close the list; a device may not give them."""

    name: Name
    task: Literal["classification", "causal_lm"]
    base_model: str | None = None  # name or id; or `bundle`
    cut: Count | None = None  # needed with base_model
    bundle: str | None = None  # base model and cut are this bundle's
    labels: Labels | None = None
    max_examples: Count | None = None  # sealed when it is reached
    idle_seal: Annotated[float, Field(ge=0, le=1e9, strict=False)] | None = (
        None  # seconds; 0: never
    )


class Dataset(BaseModel):
    """A dataset."""

    id: str
    object: Literal["activation_dataset"] = "activation_dataset"
    name: str
    base_model: str
    cut: int
    task: str
    labels: list[str]
    open_labels: bool
    sealed: bool
    sealed_at: int | None
    max_examples: int | None
    idle_seal: float | None
    examples: int
    tokens: int
    shards: int
    bytes: int
    devices: int
    created_at: int


class NewLabels(Input):
    """Label names to append."""

    names: Labels


class LabelList(BaseModel):
    """The whole ordered list; a name's place is its id."""

    labels: list[str]


@router.post("", status_code=201)
async def create_dataset(new: NewDataset, caller: AdminOrDevice, services: Use) -> Dataset:
    """Create a dataset; devices create open ones without limits."""
    _check(new, caller)
    found = await services.database.write(
        lambda session: _create(session, caller, new, services.config)
    )
    return _shape(found)


@router.get("")
async def get_datasets(caller: AdminOrDevice, services: Use) -> Page[Dataset]:
    """All datasets, oldest first."""
    found = await services.database.read(lambda session: list_datasets(session, caller.tenant_id))
    return Page(data=[_shape(record) for record in found])


@router.get("/{dataset}")
async def get_dataset(dataset: str, caller: AdminOrDevice, services: Use) -> Dataset:
    """One dataset by id or name."""

    def work(session: Session) -> DatasetRecord:
        return describe(session, find_dataset(session, caller.tenant_id, dataset))

    return _shape(await services.database.read(work))


@router.post("/{dataset}/labels")
async def add_labels(
    dataset: str, new: NewLabels, caller: AdminOrDevice, services: Use
) -> LabelList:
    """Append what an open list lacks; answers the whole list. Known names change nothing."""
    limit = services.config.max_labels
    labels = await services.database.write(
        lambda session: append_labels(session, caller.tenant_id, dataset, new.names, limit=limit)
    )
    return LabelList(labels=labels)


@router.post("/{dataset}/seal")
async def seal(dataset: str, caller: Admin, services: Use) -> Dataset:
    """End the uploads; sealing again changes nothing."""

    def work(session: Session) -> DatasetRecord:
        return describe(session, seal_dataset(session, caller.tenant_id, dataset))

    return _shape(await services.database.write(work))


@router.delete("/{dataset}")
async def delete(dataset: str, caller: Admin, services: Use) -> Deleted:
    """Erase a dataset: rows and activations."""
    dataset_id = await erase_dataset(services, caller.tenant_id, dataset)
    return Deleted(id=dataset_id, object="activation_dataset")


def _check(new: NewDataset, caller: Identity) -> None:
    if new.name.startswith(ID_PREFIX):
        raise RefusedError(
            "invalid_request", f"names do not begin with {ID_PREFIX!r}: ids do", param="name"
        )
    if new.labels is not None and new.task != "classification":
        raise RefusedError("invalid_request", f"{new.task} has no labels", param="labels")
    if new.labels is not None and len(set(new.labels)) != len(new.labels):
        raise RefusedError("invalid_request", "a label is there twice", param="labels")
    given = {"labels": new.labels, "max_examples": new.max_examples, "idle_seal": new.idle_seal}
    for name, value in given.items():
        if caller.role == "device" and value is not None:
            raise RefusedError("forbidden", f"a device may not set {name}", param=name)


def _create(
    session: Session, caller: Identity, new: NewDataset, config: ServerConfig
) -> DatasetRecord:
    base_model, cut = _base_and_cut(session, caller.tenant_id, new)
    if not 1 <= cut < base_model.num_layers:
        raise RefusedError(
            "invalid_request",
            f"cut {cut} is not within 1..{base_model.num_layers - 1} of {base_model.name}",
            param="cut",
        )
    idle_seal = config.idle_seal if new.idle_seal is None else new.idle_seal
    row = DatasetRow(
        tenant_id=caller.tenant_id,
        name=new.name,
        base_model_id=base_model.id,
        cut=cut,
        task=new.task,
        open_labels=new.task == "classification" and new.labels is None,
        max_examples=new.max_examples,
        idle_seal=idle_seal or None,
    )
    return describe(session, insert_dataset(session, row, new.labels or []))


def _base_and_cut(session: Session, tenant: str, new: NewDataset) -> tuple[BaseModelRow, int]:
    if new.bundle is not None:
        bundle = session.get(BundleRow, (tenant, new.bundle))
        if bundle is None:
            raise RefusedError(
                "unknown_bundle", f"bundle {new.bundle[:12]}… is not published here", param="bundle"
            )
        return session.get_one(BaseModelRow, bundle.base_model_id), bundle.cut
    if new.base_model is None or new.cut is None:
        missing = "base_model" if new.base_model is None else "cut"
        raise RefusedError("invalid_request", "give base_model and cut, or bundle", param=missing)
    return find_base_model(session, tenant, new.base_model), new.cut


def _shape(record: DatasetRecord) -> Dataset:
    row = record.row
    return Dataset(
        id=row.id,
        name=row.name,
        base_model=record.base_model,
        cut=row.cut,
        task=row.task,
        labels=record.labels,
        open_labels=row.open_labels,
        sealed=row.sealed_at is not None,
        sealed_at=row.sealed_at,
        max_examples=row.max_examples,
        idle_seal=row.idle_seal,
        examples=row.examples,
        tokens=row.tokens,
        shards=row.shards,
        bytes=row.bytes,
        devices=record.devices,
        created_at=row.created_at,
    )
