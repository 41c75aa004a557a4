"""The writer thread: takes what waits, runs each work in a savepoint, commits once for all."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError

T = TypeVar("T")

_BATCH = 256  # works in one commit
_FULL = ("SQLITE_FULL", "SQLITE_IOERR_WRITE")  # no space; a file-size limit
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")


@dataclass(frozen=True)
class _Job:
    work: Callable[[Session], Any]
    future: Future[Any]


@dataclass(frozen=True)
class _Outcome:
    future: Future[Any]
    value: Any = None
    error: Exception | None = None


class Writer:
    """One thread, one connection. Works see the changes of those before them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="database-write", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Session], T]) -> Future[T]:
        """Queue a work; the future is done once the commit is durable."""
        if self._closed:
            raise RefusedError("unavailable", "the server is shutting down")
        future: Future[T] = Future()
        self._queue.put(_Job(work, future))
        return future

    def close(self) -> None:
        """Commit what is queued and stop the thread."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        running = True
        while running:
            batch: list[_Job] = []
            job = self._queue.get()
            while job is not None:
                if job.future.set_running_or_notify_cancel():
                    batch.append(job)
                if len(batch) == _BATCH or self._queue.empty():
                    break
                job = self._queue.get()
            running = job is not None
            if batch:
                self._commit(batch)

    def _commit(self, batch: list[_Job]) -> None:
        try:
            with self._engine.begin() as connection:
                outcomes = [_attempt(connection, job) for job in batch]
        except Exception as error:
            # The whole transaction is gone, so nobody may be told that his part is stored.
            outcomes = [_Outcome(job.future, error=translate(error)) for job in batch]
        for outcome in outcomes:
            if outcome.error is None:
                outcome.future.set_result(outcome.value)
            else:
                outcome.future.set_exception(outcome.error)


def _attempt(connection: Connection, job: _Job) -> _Outcome:
    """Run one work in its savepoint; OperationalError ends the batch, all else only this work."""
    with Session(
        connection, join_transaction_mode="create_savepoint", expire_on_commit=False
    ) as session:
        try:
            value = job.work(session)
            session.commit()
        except OperationalError:
            connection.invalidate()  # SQLite may have undone more than the savepoint: begin anew
            raise
        except Exception as error:
            session.rollback()
            return _Outcome(job.future, error=error)
    return _Outcome(job.future, value)


def translate(error: Exception) -> Exception:
    """Give a full disk and a locked database their stable codes."""
    cause: BaseException | None = error
    while cause is not None:  # a failed rollback hides what made it necessary
        name = getattr(cause, "sqlite_errorname", "")
        if name in _FULL:
            return RefusedError("insufficient_storage", "the disk of the database is full")
        if name in _BUSY:
            return RefusedError("unavailable", "the database is locked by another process")
        cause = cause.__cause__ or cause.__context__
    return error
