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
from sqlalchemy import delete, select, update
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
    replaces: str | None = None,
) -> TokenRow:
    """Add the row of `token`; `replaces` is the id of the token that it ends at its first use."""
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
        replaces=replaces,
    )
    session.add(row)
    session.flush()
    return row


def insert_successor(session: Session, token: str, old_id: str) -> TokenRow:
    """Add `token` as the successor of the token `old_id`, which stays valid until it is used.

    There is one successor at most: whoever asks again because an answer was lost gets a new one,
    and the lost one opens nothing.
    """
    old = session.get_one(TokenRow, old_id)
    if old.revoked_at is not None:
        raise RefusedError("unauthorized", "the bearer token is unknown or revoked")
    session.execute(delete(TokenRow).where(TokenRow.replaces == old_id))
    return insert_token(
        session,
        token,
        old.role,
        name=old.name,
        tenant_id=old.tenant_id,
        device_id=old.device_id,
        replaces=old_id,
    )


def confirm_successor(session: Session, token: str) -> TokenRow:
    """The first use of a successor: from here on the token before it opens nothing."""
    row = find_token(session, token)
    if row.replaces is not None:
        session.execute(
            update(TokenRow)
            .where(TokenRow.id == row.replaces, TokenRow.revoked_at.is_(None))
            .values(revoked_at=now())
        )
        row.replaces = None
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
        if row.replaces is not None:
            row = await services.database.write(lambda session: confirm_successor(session, token))
        if row.role not in roles:
            allowed = " or ".join(roles)
            raise RefusedError("forbidden", f"this needs a token of role {allowed}, not {row.role}")
        return Identity(row.tenant_id, row.role, row.id, row.device_id)

    return authenticate


Admin = Annotated[Identity, Depends(require("admin"))]
Enroller = Annotated[Identity, Depends(require("enrol"))]
Device = Annotated[Identity, Depends(require("device"))]
AdminOrDevice = Annotated[Identity, Depends(require("admin", "device"))]
