"""The admin token of a fresh data directory: written for local use before anyone could know it."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from splitfrozen_server.auth import insert_token, new_token
from splitfrozen_server.database.engine import Database
from splitfrozen_server.database.tables import TokenRow


def ensure_admin_token(database: Database, path: Path) -> str | None:
    """Make the first admin token if there never was one; returns it then, else None.

    The file comes before the row: a crash between them leaves a file that the next start reads,
    never a token that nobody knows.
    """
    if database.read_sync(_has_admin):
        return None
    token = _read(path) or _write(path, new_token("admin"))
    database.write_sync(lambda session: insert_token(session, token, "admin", name="first").id)
    return token


def _has_admin(session: Session) -> bool:
    query = select(TokenRow.id).where(TokenRow.role == "admin").limit(1)
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
    return token
