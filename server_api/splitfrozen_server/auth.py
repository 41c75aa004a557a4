"""Bearer tokens: 256 random bits with a prefix that says the role; only SHA-256 is stored.

sf_adm_...   admin     manages the server
sf_enr_...   enrol     turns into a device token, a limited number of times
sf_dev_...   device    pushes shards, asks for predictions
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.database.tables import DEFAULT_TENANT, TokenRow
from splitfrozen_server.identifiers import new_id, now
from splitfrozen_server.services import Services, get_services

Role = Literal["admin", "enrol", "device"]

PREFIXES: dict[str, str] = {"admin": "sf_adm_", "enrol": "sf_enr_", "device": "sf_dev_"}
_BEARER = HTTPBearer(auto_error=False, description="A token of `splitfrozen-server tokens create`.")


@dataclass(frozen=True)
class Identity:
    """Who asks."""

    tenant_id: str
    role: str
    token_id: str
    device_id: str | None  # role device only


def new_token(role: str) -> str:
    """A fresh secret token."""
    return PREFIXES[role] + secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """What is stored of a token. A fast hash is right for 256 random bits."""
    return hashlib.sha256(token.encode()).hexdigest()


def insert_token(
    session: Session,
    token: str,
    role: str,
    *,
    name: str = "",
    tenant_id: str = DEFAULT_TENANT,
    device_id: str | None = None,
    uses_left: int | None = None,
    expires_at: int | None = None,
) -> TokenRow:
    """Add the row of `token`."""
    row = TokenRow(
        id=new_id("tok_"),
        tenant_id=tenant_id,
        role=role,
        name=name,
        hash=hash_token(token),
        device_id=device_id,
        uses_left=uses_left,
        expires_at=expires_at,
        created_at=now(),
    )
    session.add(row)
    session.flush()
    return row


def find_token(session: Session, token: str) -> TokenRow:
    """The row of a token that is known, unrevoked, unexpired and not used up; else unauthorized."""
    row = session.scalar(select(TokenRow).where(TokenRow.hash == hash_token(token)))
    if row is None or row.revoked_at is not None:
        raise RefusedError("unauthorized", "the bearer token is unknown or revoked")
    if row.expires_at is not None and row.expires_at <= now():
        raise RefusedError("unauthorized", "the bearer token has expired")
    if row.uses_left == 0:
        raise RefusedError("unauthorized", "the bearer token is used up")
    return row


def require(*roles: Role) -> Callable[..., Awaitable[Identity]]:
    """A FastAPI dependency: the caller's identity if its token has one of `roles`.

    Refuses with `unauthorized` or `forbidden`: before a byte of the body is read where the route
    reads it itself (shards), after FastAPI has read it where it is JSON.
    """

    async def authenticate(
        request: Request,
        services: Annotated[Services, Depends(get_services)],
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> Identity:
        if credentials is None:
            raise RefusedError("unauthorized", "send 'Authorization: Bearer <token>'")
        token = credentials.credentials
        row = await services.database.read(lambda session: find_token(session, token))
        if row.role not in roles:
            allowed = " or ".join(roles)
            raise RefusedError("forbidden", f"this needs a token of role {allowed}, not {row.role}")
        return Identity(row.tenant_id, row.role, row.id, row.device_id)

    return authenticate


Admin = Annotated[Identity, Depends(require("admin"))]
Enroller = Annotated[Identity, Depends(require("enrol"))]
Device = Annotated[Identity, Depends(require("device"))]
AdminOrDevice = Annotated[Identity, Depends(require("admin", "device"))]
