"""How often a row came before. Remembered on disk, so that a long file takes no memory."""

from __future__ import annotations

import sqlite3

_CACHE = 1024  # KiB of memory; the rest is in a nameless temporary file


class Occurrences:
    """Counts equal rows by the id of their first occurrence; one thread uses it."""

    def __init__(self) -> None:
        # An empty name is SQLite's private temporary database: gone when it is closed or killed.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE}"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute(
            "CREATE TABLE seen (id BLOB PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def __call__(self, first: bytes) -> int:
        """How many rows with this id were asked about before."""
        (times,) = self._database.execute(
            "INSERT INTO seen VALUES (?, 0) ON CONFLICT (id) DO UPDATE SET times = times + 1 "
            "RETURNING times",
            (first,),
        ).fetchone()
        return int(times)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary file."""
        self._database.close()
