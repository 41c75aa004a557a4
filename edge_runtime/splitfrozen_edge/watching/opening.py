"""Opening the ledger. One that is damaged is put aside: without it files are read again, no more.

What is read again has ids that the outbox knows, so a lost ledger costs time and doubles nothing.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from splitfrozen_edge.watching.ledger import Ledger

NAME = "watch.sqlite3"


def open_ledger(directory: Path, warn: Callable[[str], object]) -> Ledger:
    """The ledger of a state directory, readable by its user only; made if it is missing."""
    path = directory / NAME
    path.touch(mode=0o600)
    if _is_damaged(path):
        aside = path.with_name(f"{NAME}.damaged-{int(time.time())}")
        os.replace(path, aside)
        for ending in ("-wal", "-shm"):
            path.with_name(NAME + ending).unlink(missing_ok=True)
        path.touch(mode=0o600)
        warn(f"{path} was damaged and is now {aside.name}: all watched files are read again")
    return Ledger(path)


def _is_damaged(path: Path) -> bool:
    """Whether SQLite finds a fault; a disk that is full or locked is none."""
    try:
        with closing(sqlite3.connect(path, timeout=10)) as database:
            found = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        return False
    except sqlite3.DatabaseError:
        return True
    return bool(found[0] != "ok")
