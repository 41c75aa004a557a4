"""What was read of every watched file: `watch.sqlite3`. Survives a power cut at any instruction.

Rows go into the outbox first and then the ledger moves on. A crash between the two reads rows
again whose ids the outbox knows: the n-th equal row of a file has the same id however often it is
read, because the count of equal rows moves on in the same transaction as the offset.

A file that is truncated or replaced gets a new number here, and its rows are counted from 0 again:
what the old and the new content have in common are the same examples, as if both were pushed.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1
KEPT_BAD_LINES = 100  # per file, with their reasons; all are counted
BadLine = tuple[int, str]  # 1-based line, reason

_SCHEMA = """
CREATE TABLE watches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    path TEXT NOT NULL,
    UNIQUE (dataset, path)
);
CREATE TABLE datasets (
    name TEXT PRIMARY KEY,
    document TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    watch INTEGER NOT NULL REFERENCES watches (id) ON DELETE CASCADE,
    path TEXT NOT NULL,
    device TEXT NOT NULL,
    inode TEXT NOT NULL,
    size INTEGER NOT NULL DEFAULT 0,
    mtime_ns INTEGER NOT NULL DEFAULT 0,
    offset INTEGER NOT NULL DEFAULT 0,
    line INTEGER NOT NULL DEFAULT 1,
    mark BLOB NOT NULL DEFAULT x'',
    rows INTEGER NOT NULL DEFAULT 0,
    bad INTEGER NOT NULL DEFAULT 0,
    read_at REAL
);
CREATE TABLE counts (
    file INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    row BLOB NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (file, row)
) WITHOUT ROWID;
CREATE TABLE bad_lines (
    file INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    line INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (file, line)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Position:
    """How far a file was read."""

    offset: int = 0  # bytes, behind the last line that was taken
    line: int = 1  # number of the next line
    mark: bytes = b""  # of the bytes before offset
    size: int = 0  # bytes of the file when it was looked at
    mtime_ns: int = 0


@dataclass(frozen=True)
class Known:
    """A file of a watch."""

    id: int
    path: str
    device: int
    inode: int
    position: Position


@dataclass
class Advance:
    """What a batch changes about one file."""

    position: Position
    rows: int = 0
    bad: list[BadLine] = field(default_factory=list)  # the first KEPT_BAD_LINES
    unlisted: int = 0  # bad lines behind those
    counts: dict[bytes, int] = field(default_factory=dict)  # id of a row -> equal rows so far
    afresh: bool = False  # the file was read from its start again: older bad lines are gone


class Ledger:
    """One process writes; `status` reads beside it."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA foreign_keys = ON")
        self._database.execute("PRAGMA busy_timeout = 10000")
        self._migrate()

    def close(self) -> None:
        """Close the database; the object is of no use afterwards."""
        with self._lock:
            self._database.close()

    def watch(self, dataset: str, path: Path) -> int:
        """Number of a dataset's watched path; made if it is new."""
        key = (dataset, str(path))
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO watches (dataset, path) VALUES (?, ?)", key)
            row = database.execute("SELECT id FROM watches WHERE dataset = ? AND path = ?", key)
            return int(row.fetchone()[0])

    def forget(self, dataset: str) -> None:
        """Drop what is known of a dataset's files; watched again, they are read from the start."""
        with self._transaction() as database:
            database.execute("DELETE FROM watches WHERE dataset = ?", (dataset,))

    def rewind(self) -> None:
        """All files are read from the start again; ids that the outbox knows are skipped."""
        with self._transaction() as database:
            database.execute("DELETE FROM watches")

    def remember(self, name: str, dataset: Mapping[str, Any]) -> None:
        """Keep what the server says of a dataset, for when it is away."""
        text = json.dumps(dict(dataset))
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO datasets VALUES (?, ?)", (name, text))

    def recall(self, name: str) -> dict[str, Any] | None:
        """What the server said last of a dataset."""
        with self._lock:
            row = self._database.execute(
                "SELECT document FROM datasets WHERE name = ?", (name,)
            ).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def files(self, watch: int) -> list[Known]:
        """All files of a watch that are not retired."""
        with self._lock:
            rows = self._database.execute(
                "SELECT id, path, device, inode, offset, line, mark, size, mtime_ns "
                "FROM files WHERE watch = ?",
                (watch,),
            ).fetchall()
        return [Known(r[0], r[1], int(r[2]), int(r[3]), Position(*r[4:])) for r in rows]

    def add(self, watch: int, path: str, device: int, inode: int) -> int:
        """A file that was never seen; its number."""
        with self._transaction() as database:
            cursor = database.execute(
                "INSERT INTO files (watch, path, device, inode) VALUES (?, ?, ?, ?)",
                (watch, path, str(device), str(inode)),
            )
            return int(cursor.lastrowid or 0)

    def move(self, file: int, path: str, device: int, inode: int) -> None:
        """The same content under another name or, where a rotation copies, another inode."""
        with self._transaction() as database:
            database.execute(
                "UPDATE files SET path = ?, device = ?, inode = ? WHERE id = ?",
                (path, str(device), str(inode), file),
            )

    def retire(self, file: int) -> None:
        """A file that is gone, or whose content is another one now."""
        with self._transaction() as database:
            database.execute("DELETE FROM files WHERE id = ?", (file,))

    def count(self, file: int, row: bytes) -> int:
        """Equal rows that were taken of a file so far."""
        with self._lock:
            found = self._database.execute(
                "SELECT count FROM counts WHERE file = ? AND row = ?", (file, row)
            ).fetchone()
        return 0 if found is None else int(found[0])

    def advance(self, changes: Mapping[int, Advance]) -> None:
        """Move on, all files of a batch at once. Call it when their rows are in the outbox."""
        with self._transaction() as database:
            for file, change in changes.items():
                if change.afresh:
                    database.execute("DELETE FROM bad_lines WHERE file = ?", (file,))
                    database.execute("UPDATE files SET rows = 0, bad = 0 WHERE id = ?", (file,))
                moved = _move_on(database, file, change)
                if moved:  # else it was retired meanwhile
                    _keep_bad(database, file, change.bad)
                    database.executemany(
                        "INSERT INTO counts VALUES (?, ?, ?) "
                        "ON CONFLICT (file, row) DO UPDATE SET count = excluded.count",
                        [(file, row, count) for row, count in change.counts.items()],
                    )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _migrate(self) -> None:
        with self._transaction() as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise sqlite3.DatabaseError(
                    f"watch.sqlite3 has version {version}; this program knows {VERSION}: update it"
                )
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {VERSION}")


def _move_on(database: sqlite3.Connection, file: int, change: Advance) -> bool:
    position = change.position
    cursor = database.execute(
        "UPDATE files SET offset = ?, line = ?, mark = ?, size = ?, mtime_ns = ?, "
        "rows = rows + ?, bad = bad + ?, read_at = ? WHERE id = ?",
        (
            position.offset,
            position.line,
            position.mark,
            position.size,
            position.mtime_ns,
            change.rows,
            len(change.bad) + change.unlisted,
            time.time(),
            file,
        ),
    )
    return cursor.rowcount > 0


def _keep_bad(database: sqlite3.Connection, file: int, bad: Sequence[BadLine]) -> None:
    found = database.execute("SELECT count(*) FROM bad_lines WHERE file = ?", (file,)).fetchone()
    database.executemany(
        "INSERT OR IGNORE INTO bad_lines VALUES (?, ?, ?)",
        [(file, line, reason[:300]) for line, reason in bad[: KEPT_BAD_LINES - int(found[0])]],
    )
