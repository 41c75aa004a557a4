"""Migrations and the writer thread."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

import splitfrozen_server.database.job_tables  # noqa: F401  (fills Base.metadata)
from splitfrozen.errors import RefusedError
from splitfrozen_server.auth import insert_token, new_token
from splitfrozen_server.database.engine import Database
from splitfrozen_server.database.migrate import MIGRATIONS
from splitfrozen_server.database.tables import Base, DatasetRow, ShardRow, TokenRow


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fresh.db"


@pytest.fixture
def database(path: Path):  # type: ignore[no-untyped-def]
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.close()


def add_token(session: Session) -> str:
    return insert_token(session, new_token("admin"), "admin").id


def count_tokens(database: Database) -> int:
    return len(database.read_sync(lambda session: session.scalars(select(TokenRow)).all()))


def test_migrations_from_empty_give_the_tables_of_the_code(path: Path, database: Database) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_every_table_has_a_tenant(database: Database) -> None:
    for name, table in Base.metadata.tables.items():
        assert "tenant_id" in table.columns, name


def test_migration_to_erasure_keeps_every_shard_and_continues_its_numbers(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys=ON"))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["engine"] = engine
    command.upgrade(config, "0003")
    with engine.begin() as connection:
        for statement in _OLD_ROWS:
            connection.execute(text(statement))
    engine.dispose()
    opened = Database(f"sqlite:///{path}")

    def look(session: Session) -> tuple[int, int, int]:
        dataset = session.scalars(select(DatasetRow)).one()
        shards = session.scalars(select(ShardRow)).all()
        return dataset.shards, dataset.last_sequence, len(shards)

    assert opened.read_sync(look) == (1, 1, 1)
    opened.close()


_OLD_ROWS = (
    "INSERT INTO devices (id, tenant_id, name, profile, created_at) "
    "VALUES ('d', 't', 'n', '{}', 1)",
    "INSERT INTO base_models (id, tenant_id, name, source, path, trust_remote_code, family, "
    "num_layers, hidden_size, vocab_size, created_at) "
    "VALUES ('b', 't', 'n', 's', 'p', 0, 'f', 4, 8, 9, 1)",
    "INSERT INTO bundles (tenant_id, id, base_model_id, cut, precision, wire, prefix_digest, "
    "hidden_size, vocab_size, max_length, manifest, size, created_at) "
    "VALUES ('t', 'u', 'b', 2, 'p', 'w', 'x', 8, 9, 9, 'm', 1, 1)",
    "INSERT INTO datasets (id, tenant_id, name, base_model_id, cut, task, open_labels, examples, "
    "tokens, shards, bytes, created_at) VALUES ('s', 't', 'n', 'b', 2, 'c', 0, 1, 1, 1, 1, 1)",
    "INSERT INTO shards (id, tenant_id, dataset_id, sequence, digest, device_id, bundle_id, codec, "
    "precision, size, examples, tokens, created_at) "
    "VALUES ('h', 't', 's', 1, 'g', 'd', 'u', 'c', 'p', 1, 1, 1, 1)",
)


def test_opening_again_changes_nothing(path: Path, database: Database) -> None:
    database.write_sync(add_token)
    database.close()
    again = Database(f"sqlite:///{path}")
    assert count_tokens(again) == 1
    again.close()


def test_writes_are_flushed_in_full_to_a_write_ahead_log(path: Path, database: Database) -> None:
    def settings(session: Session) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [session.execute(text(f"PRAGMA {name}")).scalar() for name in names]

    assert database.write_sync(settings) == ["wal", 2, 1]


def test_reader_cannot_write(database: Database) -> None:
    with pytest.raises(OperationalError, match="readonly"):
        database.read_sync(add_token)


def test_failed_work_undoes_itself_and_not_its_neighbours(database: Database) -> None:
    def fail(session: Session) -> None:
        add_token(session)
        raise RefusedError("invalid_request", "no")

    def clash(session: Session) -> None:
        token = new_token("admin")
        insert_token(session, token, "admin")
        insert_token(session, token, "admin")

    works = [add_token, fail, add_token, clash, add_token] * 20
    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(database.write_sync, work) for work in works]
        errors = [type(future.exception()) for future in futures]
    assert errors.count(RefusedError) == 20 and errors.count(IntegrityError) == 20
    assert count_tokens(database) == 60


def test_write_is_seen_by_the_next_read(database: Database) -> None:
    for expected in range(1, 20):
        database.write_sync(add_token)
        assert count_tokens(database) == expected


def test_full_database_is_507_and_goes_on_after(path: Path, database: Database) -> None:
    def limit(session: Session, pages: int) -> None:
        session.execute(text(f"PRAGMA max_page_count={pages}"))

    def add_much(session: Session) -> None:
        for _ in range(500):
            add_token(session)

    database.write_sync(lambda session: limit(session, 1))  # the least it can: its present size
    with pytest.raises(RefusedError) as caught:
        database.write_sync(add_much)
    assert caught.value.code == "insufficient_storage"
    assert count_tokens(database) == 0
    database.write_sync(lambda session: limit(session, 1 << 30))
    database.write_sync(add_much)
    assert count_tokens(database) == 500


def test_locked_database_is_503(path: Path, database: Database) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RefusedError) as caught:
        database.write_sync(add_token)
    assert caught.value.code == "unavailable" and caught.value.retryable
    other.execute("ROLLBACK")
    other.close()
    database.write_sync(add_token)


def test_writes_after_close_are_refused(path: Path) -> None:
    database = Database(f"sqlite:///{path}")
    database.close()
    with pytest.raises(RefusedError) as caught:
        database.write_sync(add_token)
    assert caught.value.code == "unavailable"
