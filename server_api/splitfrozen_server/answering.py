"""The model that a split request names: a base model or an adapter, and where its files are."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.admission import Published
from splitfrozen_server.database.job_tables import FileRow, JobRow
from splitfrozen_server.database.tables import BaseModelRow, BundleRow
from splitfrozen_server.jobs.names import find_adapter, no_model


@dataclass(frozen=True)
class Adapter:
    """What makes an answering model more than its base."""

    cut: int
    task: str
    labels: int
    digest: str  # of the packed adapter


@dataclass(frozen=True)
class AnsweringModel:
    """What the worker needs to answer with a model."""

    name: str  # the full one
    base_model_id: str
    base_path: str
    trust_remote_code: bool
    adapter: Adapter | None  # None: the base model itself


def find_answering(session: Session, tenant: str, name: str) -> AnsweringModel:
    """An adapter by full name or suffix, or a base model. RefusedError `not_found`."""
    job = find_adapter(session, tenant, name)
    if job is not None:
        base = session.get_one(BaseModelRow, job.base_model_id)
        return _answering(job.fine_tuned_model, base, _adapter(session, job))
    query = select(BaseModelRow).where(BaseModelRow.tenant_id == tenant, BaseModelRow.name == name)
    found = session.scalar(query)
    if found is None:
        raise no_model(session, tenant, name)
    return _answering(name, found, None)


def find_positions(session: Session, tenant: str, bundle: str) -> int:
    """The most tokens of a text that a published bundle's model knows positions for."""
    row = session.get_one(BundleRow, (tenant, bundle))
    return int(json.loads(row.manifest)["max_positions"])


def check_origin(model: AnsweringModel, bundle: Published) -> None:
    """Refuse activations of another base model, or of another cut than the adapter's."""
    cut = bundle.cut if model.adapter is None else model.adapter.cut
    if (bundle.base_model_id, bundle.cut) != (model.base_model_id, cut):
        raise RefusedError(
            "dataset_mismatch",
            f"{model.name} continues another base model or cut than the bundle",
            param="bundle",
        )


def _answering(name: str, base: BaseModelRow, adapter: Adapter | None) -> AnsweringModel:
    return AnsweringModel(name, base.id, base.path, base.trust_remote_code, adapter)


def _adapter(session: Session, job: JobRow) -> Adapter:
    packed = select(FileRow.sha256).where(FileRow.job_id == job.id, FileRow.purpose == "adapter")
    return Adapter(
        cut=job.cut,
        task=job.task,
        labels=len((job.start or {}).get("labels", [])),
        digest=session.scalars(packed).one(),
    )
