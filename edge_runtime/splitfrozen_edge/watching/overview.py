"""What `status` shows of watched files. Opens the ledger for reading only, beside its writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from splitfrozen_edge.watching.ledger import BadLine


@dataclass(frozen=True)
class FileState:
    """One file of a watch; sizes in bytes."""

    path: str
    size: int
    offset: int  # behind the last line that was taken
    rows: int
    bad: int
    bad_lines: tuple[BadLine, ...]  # the first of them


@dataclass(frozen=True)
class WatchState:
    """A watched path and its files that are there."""

    dataset: str  # id
    path: str
    files: tuple[FileState, ...]


def read_watches(ledger: Path) -> list[WatchState]:
    """Every watched path with its files; none if nothing was ever watched."""
    if not ledger.exists():
        return []
    with closing(sqlite3.connect(ledger, timeout=10)) as database:
        database.execute("PRAGMA query_only = ON")
        try:
            watches = database.execute(
                "SELECT id, dataset, path FROM watches ORDER BY dataset, path"
            ).fetchall()
        except sqlite3.OperationalError:  # made a moment ago: its tables are not there yet
            return []
        return [
            WatchState(dataset, path, tuple(_files(database, watch)))
            for watch, dataset, path in watches
        ]


def _files(database: sqlite3.Connection, watch: int) -> Iterable[FileState]:
    listed = database.execute(
        "SELECT id, path, size, offset, rows, bad FROM files WHERE watch = ? ORDER BY path",
        (watch,),
    ).fetchall()
    for file, path, size, offset, rows, bad in listed:
        lines = database.execute(
            "SELECT line, reason FROM bad_lines WHERE file = ? ORDER BY line", (file,)
        ).fetchall()
        yield FileState(path, size, offset, rows, bad, tuple((line, why) for line, why in lines))
