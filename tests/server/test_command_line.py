"""`splitfrozen-server` as a person or a script uses it."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.server.stack import ServerProcess, run_command


def manage(server: ServerProcess, *arguments: str) -> Any:
    """Run a management command in JSON with the token file of the data directory."""
    found = run_command(
        *arguments,
        *("--server", server.url, "--data-dir", str(server.data_dir), "--format", "json"),
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_dataset_lives_from_creation_to_erasure(server: ServerProcess) -> None:
    name = f"cli-{uuid.uuid4().hex[:8]}"
    created = manage(
        server,
        *("datasets", "create", name, "--model", "tiny", "--cut", "2"),
        *("--task", "classification", "--labels", "negative, positive", "--idle-seal", "60s"),
    )
    assert (created["labels"], created["idle_seal"]) == (["negative", "positive"], 60)
    assert manage(server, "datasets", "get", name)["id"] == created["id"]
    assert manage(server, "datasets", "seal", name)["sealed"] is True
    assert name in [row["name"] for row in manage(server, "datasets", "list")]
    assert manage(server, "datasets", "delete", name, "--yes")["deleted"] is True


def test_a_dataset_that_nobody_can_use_is_warned_of(server: ServerProcess) -> None:
    name = f"cli-{uuid.uuid4().hex[:8]}"
    connection = ("--server", server.url, "--data-dir", str(server.data_dir))
    found = run_command(
        *("datasets", "create", name, "--model", "tiny", "--cut", "3", "--labels", "good"),
        *("--task", "classification", *connection),
    )
    assert found.returncode == 0
    assert "warning: no bundle of tiny at cut 3 is published" in found.stderr
    assert "warning: one label, 'good', leaves nothing to learn" in found.stderr
    assert re.search(r"^created_at +20\d\d-\d\d-\d\d \d\d:", found.stdout, re.MULTILINE)
    job = run_command("jobs", "create", "--dataset", name, *connection)
    assert job.returncode == 0 and f"Next: splitfrozen-server datasets seal {name}" in job.stderr


def test_models_and_bundles_are_listed(server: ServerProcess, bundle: str) -> None:
    assert [row["name"] for row in manage(server, "models", "list")] == ["tiny"]
    assert [row["id"] for row in manage(server, "bundles", "list", "--cut", "2")] == [bundle]


def test_tokens_and_devices_are_managed(server: ServerProcess) -> None:
    made = manage(server, "tokens", "create", "--role", "enrol", "--uses", "5", "--expires", "1h")
    assert made["uses_left"] == 5 and made["expires_at"] - made["created_at"] == 3600
    assert manage(server, "tokens", "revoke", made["id"])["deleted"] is True
    listed = {row["id"]: row for row in manage(server, "tokens", "list")}
    assert listed[made["id"]]["revoked_at"] is not None
    assert isinstance(manage(server, "devices", "list"), list)


def test_text_output_of_a_token_is_the_secret_alone(server: ServerProcess) -> None:
    found = run_command(
        *("tokens", "create", "--role", "enrol"),
        *("--server", server.url, "--token", server.admin_token),
    )
    assert found.stdout.startswith("sf_enr_") and len(found.stdout.split()) == 1


def test_environment_gives_server_and_token(server: ServerProcess, tmp_path: Path) -> None:
    environment = {"SPLITFROZEN_SERVER": server.url, "SPLITFROZEN_TOKEN": server.admin_token}
    found = run_command("models", "list", environment=environment, cwd=tmp_path)
    assert found.returncode == 0 and "tiny" in found.stdout and "gpt2" in found.stdout


def test_refusal_is_one_line_with_its_code_and_exit_code_3(server: ServerProcess) -> None:
    found = run_command(
        *("datasets", "get", "nobody"),
        *("--server", server.url, "--data-dir", str(server.data_dir)),
    )
    assert found.returncode == 3
    assert found.stderr.strip() == "Error: there is no dataset 'nobody' [not_found]"


@pytest.mark.parametrize(
    "url", ["http://198.51.100.7:8000", "https://127.example.org", "http://localhost.example.org"]
)
def test_local_token_is_not_sent_to_another_machine(tmp_path: Path, url: str) -> None:
    (tmp_path / "admin.token").write_text("sf_adm_secret\n")
    found = run_command("models", "list", "--server", url, "--data-dir", str(tmp_path))
    assert found.returncode == 2 and "--token" in found.stderr and url in found.stderr


def test_server_that_does_not_answer_is_exit_code_3() -> None:
    found = run_command("models", "list", "--server", "http://127.0.0.1:9", "--token", "x")
    assert found.returncode == 3 and "splitfrozen-server serve" in found.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("models", "list", "--data-dir", "/nonexistent"),
        ("datasets", "create", "x"),
        ("tokens", "create", "--role", "enrol", "--expires", "soon"),
        ("nonsense",),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    found = run_command(*arguments)
    assert found.returncode == 2 and "Traceback" not in found.stderr


def test_help_needs_no_server() -> None:
    found = run_command("--help")
    assert found.returncode == 0
    for group in ("serve", "models", "bundles", "datasets", "jobs", "tokens", "devices"):
        assert group in found.stdout
