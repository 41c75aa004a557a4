"""Base models: register, list."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from splitfrozen_server.auth import Admin, AdminOrDevice
from splitfrozen_server.base_models import list_base_models, register_model
from splitfrozen_server.database.tables import BaseModelRow
from splitfrozen_server.routes.shapes import Input, Name, Page
from splitfrozen_server.services import Use

router = APIRouter(prefix="/v1/base_models", tags=["models"])


class NewBaseModel(Input):
    """A base model to register: a Hub id, or a directory of the server."""

    name: Name
    source: Annotated[str, Field(min_length=1, max_length=4096)]
    revision: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    trust_remote_code: bool = False


class RegisteredModel(BaseModel):
    """A registered base model."""

    id: str
    object: Literal["base_model"] = "base_model"
    name: str
    source: str
    revision: str | None
    family: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    created_at: int


@router.post("", status_code=201)
async def add_base_model(
    new: NewBaseModel, caller: Admin, services: Use, response: Response
) -> RegisteredModel:
    """Register a base model; the same one again answers 200. Downloads weights from the Hub."""
    row, is_new = await register_model(
        services,
        caller.tenant_id,
        new.name,
        new.source,
        revision=new.revision,
        trust_remote_code=new.trust_remote_code,
    )
    response.status_code = 201 if is_new else 200
    return _shape(row)


@router.get("")
async def get_base_models(caller: AdminOrDevice, services: Use) -> Page[RegisteredModel]:
    """All base models, oldest first."""
    rows = await services.database.read(lambda session: list_base_models(session, caller.tenant_id))
    return Page(data=[_shape(row) for row in rows])


def _shape(row: BaseModelRow) -> RegisteredModel:
    return RegisteredModel(
        id=row.id,
        name=row.name,
        source=row.source,
        revision=row.revision,
        family=row.family,
        num_layers=row.num_layers,
        hidden_size=row.hidden_size,
        vocab_size=row.vocab_size,
        created_at=row.created_at,
    )
