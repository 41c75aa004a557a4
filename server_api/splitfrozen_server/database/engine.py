"""The one door to SQL: many readers, one writer thread, migrations at open.

SQLite runs in WAL mode with `synchronous=FULL`: what `write` returned survives a power cut on a
disk that honours flushes. Waiting writes share one commit, so that a hundred uploads cost one
flush. Does not know what the rows mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

from splitfrozen_server.database.migrate import upgrade
from splitfrozen_server.database.writer import Writer, translate

T = TypeVar("T")

_READERS = 4  # threads


class Database:
    """Sessions for work functions; a work function returns plain values or detached rows."""

    def __init__(self, url: str) -> None:
        """Open `url` (`sqlite:///path` or another SQLAlchemy URL) and migrate it to the newest."""
        write_engine = _open(url, read_only=False)
        upgrade(write_engine)
        self._engine = _open(url, read_only=True)
        self._write_engine = write_engine
        self._writer = Writer(write_engine)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="database-read")

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run `work` on a reader thread; it cannot change anything."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_sync, work)

    async def write(self, work: Callable[[Session], T]) -> T:
        """Run `work` on the writer thread; returns after its commit is durable.

        If `work` raises, its changes and only its changes are undone.
        """
        return await asyncio.wrap_future(self._writer.submit(work))

    def read_sync(self, work: Callable[[Session], T]) -> T:
        """`read` in the calling thread."""
        with Session(self._engine, expire_on_commit=False) as session:
            try:
                return work(session)
            except Exception as error:
                raise translate(error) from error

    def write_sync(self, work: Callable[[Session], T]) -> T:
        """`write`, waiting in the calling thread."""
        return self._writer.submit(work).result()

    def close(self) -> None:
        """Finish what waits and close all connections."""
        self._writer.close()
        self._readers.shutdown()
        self._engine.dispose()
        self._write_engine.dispose()


def _open(url: str, *, read_only: bool) -> Engine:
    engine = create_engine(url, pool_size=1 if not read_only else _READERS + 4)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_reader if read_only else _configure_writer)
        event.listen(engine, "begin", _begin_read if read_only else _begin_write)
    return engine


def _configure_writer(connection: Any, record: Any) -> None:
    # The driver's own transaction handling cannot do savepoints; we say BEGIN ourselves.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "busy_timeout=5000",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _configure_reader(connection: Any, record: Any) -> None:
    _configure_writer(connection, record)
    connection.execute("PRAGMA query_only=ON")


def _begin_read(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_write(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
