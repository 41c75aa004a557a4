"""A damaged outbox file -> a sound one with what can still be read; the damaged one is kept aside.

Only for a file that no other process has open. A kill at any instruction is made good by the next
call: the new file is complete and durable under another name before anything is renamed.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from splitfrozen_edge.outbox.recovery import Recovered

_KEPT = 2  # damaged files; each may be as large as the outbox
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file itself is wrong, not the disk or the request."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def suspect_path(path: Path) -> Path:
    """The mark that a file has to be looked through before it is used again."""
    return path.with_name(path.name + "-suspect")


def repaired_path(path: Path) -> Path:
    """The mark that a repair may have lost shards; whoever can read their rows again removes it."""
    return path.with_name(path.name + "-repaired")


def mend(path: Path) -> str | None:
    """Look through a file whose last end was not clean; words for the user if it was damaged.

    Reads the whole file in that case. Raises OSError or sqlite3.Error if nothing can be written.
    """
    made, suspect = _salvage_path(path), suspect_path(path)
    if made.exists():
        return _finish(path, made)
    _building_path(path).unlink(missing_ok=True)
    log = _log_path(path)
    if not suspect.exists() and not (log.exists() and log.stat().st_size):
        return None
    # Looking closes the log; the mark keeps the doubt if the look itself is interrupted.
    suspect.touch(mode=0o600)
    if _is_sound(path):
        suspect.unlink()
        return None
    from splitfrozen_edge.outbox.recovery import recover

    found = recover(path, _building_path(path))
    _building_path(path).replace(made)
    return _finish(path, made, found)


def _is_sound(path: Path) -> bool:
    try:
        database = sqlite3.connect(path)
        try:
            return bool(database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        finally:
            database.close()
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return False
        raise


def _finish(path: Path, made: Path, found: Recovered | None = None) -> str:
    """Put the damaged file aside and the new one in its place."""
    aside = _aside(path)
    if path.exists():
        os.link(path, aside)
    log = _log_path(path)
    if log.exists():  # of the damaged file: beside the new one it would be taken for its own
        log.rename(aside.with_name(aside.name + "-wal"))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    repaired_path(path).touch(mode=0o600)
    made.replace(path)
    suspect_path(path).unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    told = found.words() if found else "what could be read of it was kept"
    return f"the outbox {path} was damaged: {told}. The damaged file is kept as {aside.name}"


def _aside(path: Path) -> Path:
    """A new name; the oldest of the damaged files make room, or a failing card would fill up."""
    names = [found.name for found in path.parent.glob(f"{path.name}.damaged-*")]
    numbers = {int(end) for name in names if (end := name.rpartition("-")[2]).isdigit()}
    for old in sorted(numbers)[: 1 - _KEPT]:
        for ending in ("", "-wal"):
            path.with_name(f"{path.name}.damaged-{old}{ending}").unlink(missing_ok=True)
    return path.with_name(f"{path.name}.damaged-{max(numbers, default=0) + 1}")


def _salvage_path(path: Path) -> Path:
    return path.with_name(path.name + ".salvaged")


def _building_path(path: Path) -> Path:
    return path.with_name(path.name + ".salvaging")


def _log_path(path: Path) -> Path:
    return path.with_name(path.name + "-wal")
