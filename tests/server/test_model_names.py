"""A model's name that is not there: what the refusal says instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from splitfrozen.errors import RefusedError
from splitfrozen_server.answering import find_answering
from splitfrozen_server.database.engine import Database
from splitfrozen_server.database.job_tables import JobRow
from splitfrozen_server.database.tables import DEFAULT_TENANT, BaseModelRow


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'names.db'}")
    yield opened
    opened.close()


def add(database: Database, *jobs: tuple[str, str]) -> None:
    """The base model `tiny` and jobs of (suffix, status), oldest first."""

    def work(session: Session) -> None:
        session.add(
            BaseModelRow(
                id="bm_1",
                tenant_id=DEFAULT_TENANT,
                name="tiny",
                source="tiny",
                path="/tiny",
                trust_remote_code=False,
                family="gpt2",
                num_layers=4,
                hidden_size=8,
                vocab_size=16,
                created_at=1,
            )
        )
        session.flush()
        for place, (suffix, status) in enumerate(jobs):
            ended = status in ("succeeded", "failed")
            session.add(
                JobRow(
                    id=f"ftjob-{place}",
                    tenant_id=DEFAULT_TENANT,
                    position=place,
                    status=status,
                    base_model_id="bm_1",
                    model="tiny",
                    suffix=suffix,
                    fine_tuned_model=f"ft:tiny:{suffix}:{place}",
                    training_dataset_id="ds_1",
                    task="classification",
                    cut=2,
                    config={},
                    created_at=1,
                    finished_at=2 if ended else None,
                )
            )

    database.write_sync(work)


def refusal(database: Database, name: str, tenant: str = DEFAULT_TENANT) -> str:
    def find(session: Session) -> Any:
        return find_answering(session, tenant, name)

    with pytest.raises(RefusedError) as caught:
        database.read_sync(find)
    assert (caught.value.code, caught.value.param) == ("not_found", "model")
    return caught.value.message


def test_what_is_there_is_named(database: Database) -> None:
    add(database, ("reviews", "succeeded"), ("spam", "running"), ("mails", "failed"))
    missing = "there is no model "
    assert refusal(database, "ft:review") == f"{missing}'ft:review'; did you mean ft:reviews?"
    assert refusal(database, "reviews") == f"{missing}'reviews'; did you mean ft:reviews?"
    assert refusal(database, "xyz") == f"{missing}'xyz'; there is: ft:reviews, tiny"
    running = f"{missing}'ft:spam': job ftjob-1 makes it and is running"
    assert refusal(database, "ft:spam") == running
    failed = f"{missing}'ft:tiny:mails:2': job ftjob-2 has ended as failed"
    assert refusal(database, "ft:tiny:mails:2") == failed


def test_another_tenants_models_are_not_named(database: Database) -> None:
    add(database, ("reviews", "succeeded"), ("spam", "running"))
    for name in ("ft:reviews", "ft:spam", "tiny"):
        assert refusal(database, name, "other").endswith("there is: none yet")


def test_five_names_are_enough(database: Database) -> None:
    add(database, *((f"m{n}", "succeeded") for n in range(9)))
    assert refusal(database, "zzz").endswith("there is: ft:m8, ft:m7, ft:m6, ft:m5, ft:m4, …")
