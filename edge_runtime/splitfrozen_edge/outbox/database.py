"""The outbox's SQLite file: opened, repaired if the last end was a bad one, one writer at a time.

WAL mode with full synchronisation: every transaction is durable when it returns, and a kill or a
power cut leaves the state before or after it. A page that the disk has lost is another matter: it
is looked for after an end that was not a clean one (it costs a read of the whole file), and
whenever SQLite has met one.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from splitfrozen_edge.outbox.salvage import is_damage, mend, suspect_path
from splitfrozen_edge.outbox.schema import migrate

_WAL_LIMIT = 8 * 1024 * 1024  # bytes that the log keeps on disk when it is empty


class Database:
    """One connection that threads share; other processes may have their own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notice: str | None = None  # words for the user if the file had to be repaired
        self._lock = threading.Lock()
        self._users = os.open(f"{path}-users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._database = self._open()
        except BaseException:
            os.close(self._users)
            raise

    def close(self) -> None:
        """Close the database; the object is of no use afterwards."""
        with self._lock:
            if self._users >= 0:
                self._database.close()
                os.close(self._users)
                self._users = -1

    def _open(self) -> sqlite3.Connection:
        """Repair only when nobody else has the file open: the lock says so, whoever was killed."""
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._users, fcntl.LOCK_SH)
            return self._connect()
        self.notice = mend(self.path)
        try:
            database = self._connect()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            suspect_path(self.path).touch(mode=0o600)
            self.notice = mend(self.path)
            database = self._connect()
        fcntl.flock(self._users, fcntl.LOCK_SH)
        return database

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA busy_timeout = 10000")
            # Of use in a new file only: what was sent gives its place on the disk back.
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            # What a kill or a full disk leaves half-written is rolled back at the next open.
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
            with _transaction(database):
                migrate(database)
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction."""
        with self._lock, self._noting_damage(), _transaction(self._database):
            yield self._database

    @contextmanager
    def _deleting(self) -> Iterator[sqlite3.Connection]:
        """As `_writing`, where many shards go: to check each for examples would read all examples.

        Whoever deletes a shard here deletes what refers to it first.
        """
        with self._lock:
            self._database.execute("PRAGMA foreign_keys = OFF")
            try:
                with self._noting_damage(), _transaction(self._database):
                    yield self._database
            finally:
                self._database.execute("PRAGMA foreign_keys = ON")

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._noting_damage():
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _noting_damage(self) -> Iterator[None]:
        """What SQLite cannot read is repaired when the file is opened next."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                suspect_path(self.path).touch(mode=0o600)
            raise


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        # A full disk has rolled back already; a second time would hide that error.
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
