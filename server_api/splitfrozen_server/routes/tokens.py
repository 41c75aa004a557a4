"""Tokens: make, list, revoke."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.auth import Admin, insert_token, new_token
from splitfrozen_server.database.tables import TokenRow
from splitfrozen_server.identifiers import now
from splitfrozen_server.routes.shapes import Deleted, Input, Page, Text
from splitfrozen_server.services import Use

router = APIRouter(prefix="/v1/tokens", tags=["tokens"])


class NewToken(Input):
    """A token to make."""

    role: Literal["admin", "enrol"]
    name: Text | None = None
    uses: Annotated[int, Field(ge=1, le=1_000_000)] | None = None  # enrol only
    expires_in: Annotated[int, Field(ge=1, le=10 * 366 * 86400)] | None = None  # seconds


class Token(BaseModel):
    """A token without its secret."""

    id: str
    object: Literal["token"] = "token"
    role: str
    name: str
    device: str | None
    uses_left: int | None
    expires_at: int | None
    revoked_at: int | None
    created_at: int


class MadeToken(Token):
    """The only answer that carries the secret."""

    token: str


@router.post("", status_code=201)
async def create_token(new: NewToken, caller: Admin, services: Use) -> MadeToken:
    """Make a token; its secret is shown this once."""
    if new.uses is not None and new.role != "enrol":
        raise RefusedError("invalid_request", "only enrol tokens have limited uses", param="uses")
    secret = new_token(new.role)
    row = await services.database.write(
        lambda session: insert_token(
            session,
            secret,
            new.role,
            name=new.name or "",
            tenant_id=caller.tenant_id,
            uses_left=new.uses,
            expires_at=None if new.expires_in is None else now() + new.expires_in,
        )
    )
    return MadeToken(**_shape(row).model_dump(), token=secret)


@router.get("")
async def list_tokens(caller: Admin, services: Use) -> Page[Token]:
    """All tokens, devices' too, without their secrets."""
    query = (
        select(TokenRow)
        .where(TokenRow.tenant_id == caller.tenant_id)
        .order_by(TokenRow.created_at, TokenRow.id)
    )
    rows = await services.database.read(lambda session: session.scalars(query).all())
    return Page(data=[_shape(row) for row in rows])


@router.delete("/{token_id}")
async def revoke_token(token_id: str, caller: Admin, services: Use) -> Deleted:
    """Revoke a token and its unused successor; from the answer on they open nothing."""
    await services.database.write(lambda session: _revoke(session, caller.tenant_id, token_id))
    return Deleted(id=token_id, object="token")


def _revoke(session: Session, tenant: str, token_id: str) -> None:
    row = session.get(TokenRow, token_id)
    if row is None or row.tenant_id != tenant:
        raise RefusedError("not_found", f"there is no token {token_id[:80]!r}")
    session.execute(
        update(TokenRow)
        .where(
            or_(TokenRow.id == token_id, TokenRow.replaces == token_id),
            TokenRow.revoked_at.is_(None),
        )
        .values(revoked_at=now())
    )


def _shape(row: TokenRow) -> Token:
    return Token(
        id=row.id,
        role=row.role,
        name=row.name,
        device=row.device_id,
        uses_left=row.uses_left,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        created_at=row.created_at,
    )
