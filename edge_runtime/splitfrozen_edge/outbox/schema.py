"""The outbox's tables and how an older file gets them.

Version 2 puts what the server refused for good into a table of its own: `shards` stays as it was,
so a device whose disk is full of shards needs no room to migrate.
"""

from __future__ import annotations

import sqlite3

VERSION = 2

# `body` stands last, and the index holds what is summed: counting must not read megabytes.
_V1 = """
CREATE TABLE datasets (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, bundle TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE bundles (
    id TEXT PRIMARY KEY, directory TEXT NOT NULL, used_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE shards (
    sequence INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('queued', 'acked', 'replaced')),
    size INTEGER NOT NULL,
    examples INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    created_at REAL NOT NULL,
    body BLOB CHECK ((body IS NULL) = (state <> 'queued'))
);
CREATE INDEX shards_by_state ON shards (state, dataset, sequence, size, examples);
CREATE TABLE examples (
    dataset TEXT NOT NULL,
    id BLOB NOT NULL,
    sequence INTEGER NOT NULL REFERENCES shards (sequence),
    PRIMARY KEY (dataset, id)
) WITHOUT ROWID;
"""

# A parked shard keeps its row and body in `shards`. `examples` counts those that are still its
# own: after unknown_bundle a row may be computed again with another bundle and move away.
_V2 = """
CREATE TABLE parked (
    sequence INTEGER PRIMARY KEY REFERENCES shards (sequence) ON DELETE CASCADE,
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    bundle TEXT NOT NULL,
    examples INTEGER NOT NULL,
    parked_at REAL NOT NULL
);
"""

_STEPS = {0: _V1, 1: _V2}  # version -> what leads to the next one


def migrate(database: sqlite3.Connection) -> None:
    """Bring a file to VERSION, within the caller's transaction; DatabaseError if it is newer."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise sqlite3.DatabaseError(
            f"the outbox has version {version}; this program knows {VERSION}: update it"
        )
    for step in range(version, VERSION):
        for statement in _STEPS[step].split(";"):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {step + 1}")
