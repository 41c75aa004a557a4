"""SQLite's errors in words for the person who has to do something about them."""

from __future__ import annotations

import sqlite3

_WORDS = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space; the same command continues",
    sqlite3.SQLITE_READONLY: "the disk is read-only: make it writable; the same command continues",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened: check that the directory exists and "
    "that this user may write there",
    sqlite3.SQLITE_IOERR: "the disk fails or is full: look at the system's log; the same command "
    "continues when it works again",
    sqlite3.SQLITE_CORRUPT: "the outbox is damaged: run the command again, it keeps what can be "
    "read",
    sqlite3.SQLITE_NOTADB: "the outbox is damaged: run the command again, it keeps what can be "
    "read",
    sqlite3.SQLITE_BUSY: "another process holds the outbox: try again",
}


def describe_database(error: sqlite3.Error) -> str:
    """What happened and what to do."""
    words = _WORDS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    return f"the outbox cannot be used: {error}" if words is None else f"{words} (outbox: {error})"
