"""The admin token of a fresh data directory: written for local use before anyone could know it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from splitfrozen_server.auth import hash_token, insert_token, new_token
from splitfrozen_server.blobs import flush_directory
from splitfrozen_server.database.engine import Database
from splitfrozen_server.database.tables import TokenRow
from splitfrozen_server.identifiers import now


def ensure_admin_token(database: Database, path: Path) -> str | None:
    """Make an admin token if none can be used; returns it then, else None.

    The file comes before the row: a crash between them leaves a file that the next start reads,
    never a token that nobody knows. A new one is made too once the last one is revoked or expired.
    """
    if database.read_sync(_has_admin):
        return None
    token = _read(path)
    if not token or database.read_sync(partial(_is_known, token=token)):
        token = _write(path, new_token("admin"))
    database.write_sync(lambda session: insert_token(session, token, "admin", name="first").id)
    return token


def _has_admin(session: Session) -> bool:
    query = select(TokenRow.id).where(
        TokenRow.role == "admin",
        TokenRow.revoked_at.is_(None),
        or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > now()),
    )
    return session.scalar(query.limit(1)) is not None


def _is_known(session: Session, token: str) -> bool:
    """Whether a token has a row: it is then revoked or expired, and cannot be used again."""
    query = select(TokenRow.id).where(TokenRow.hash == hash_token(token))
    return session.scalar(query) is not None


def _read(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None


def _write(path: Path, token: str) -> str:
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(token + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    flush_directory(path.parent)  # before the row: no start may know a token that no file has
    return token
