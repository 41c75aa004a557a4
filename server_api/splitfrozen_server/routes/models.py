"""Everything that can be named as a model: base models and finished adapters."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen_server.auth import AdminOrDevice
from splitfrozen_server.database.job_tables import JobRow
from splitfrozen_server.database.tables import BaseModelRow
from splitfrozen_server.jobs.names import find_adapter, no_model
from splitfrozen_server.jobs.records import adapter_record, base_model_record
from splitfrozen_server.services import Use

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(identity: AdminOrDevice, services: Use) -> dict[str, Any]:
    """Base models first, then adapters, each in the order of their creation."""

    def work(session: Session) -> list[dict[str, Any]]:
        tenant = identity.tenant_id
        bases = select(BaseModelRow).where(BaseModelRow.tenant_id == tenant)
        jobs = select(JobRow).where(JobRow.tenant_id == tenant, JobRow.status == "succeeded")
        found = [base_model_record(row) for row in session.scalars(bases)]
        for job in session.scalars(jobs.order_by(JobRow.position)):
            found.append(adapter_record(session, job))
        return found

    return {"object": "list", "data": await services.database.read(work), "has_more": False}


@router.get("/{model:path}")
async def get_model(model: str, identity: AdminOrDevice, services: Use) -> dict[str, Any]:
    """A base model by name, an adapter by its full name or as `ft:{suffix}`."""

    def work(session: Session) -> dict[str, Any]:
        if (job := find_adapter(session, identity.tenant_id, model)) is not None:
            return adapter_record(session, job)
        query = select(BaseModelRow).where(
            BaseModelRow.tenant_id == identity.tenant_id, BaseModelRow.name == model
        )
        if (base := session.scalar(query)) is not None:
            return base_model_record(base)
        raise no_model(session, identity.tenant_id, model)

    return await services.database.read(work)
