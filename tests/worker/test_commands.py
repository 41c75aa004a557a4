"""`splitfrozen-server jobs`, as a person or a script uses it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.worker.server import Server
from tests.worker.shards import ShardMaker, push_examples


def jobs(server: Server, *arguments: object, status: int = 0) -> str:
    command = [Path(sys.executable).parent / "splitfrozen-server", "jobs", *map(str, arguments)]
    place = ["--server", str(server.http.base_url), "--data-dir", str(server.data_dir)]
    done = subprocess.run([*command, *place], capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr if status else done.stdout


def as_json(server: Server, *arguments: object) -> Any:
    return json.loads(jobs(server, *arguments, "--format", "json"))


def test_create_and_wait_leaves_an_adapter(
    server: Server, bert: ShardMaker, tmp_path: Path
) -> None:
    dataset = server.create_dataset()
    push_examples(server, bert, dataset["id"], 16)
    server.seal(dataset["id"])
    output = tmp_path / "adapter"
    flags = ["--lora-r", 4, "--epochs", 2, "--batch-size", 8, "--target-modules", "query,value"]
    job = as_json(
        server, "create", "--dataset", dataset["name"], *flags, "--wait", "--output", output
    )
    assert (job["status"], job["steps_completed"]) == ("succeeded", 4)
    config = json.loads((output / "adapter_config.json").read_text())
    assert (config["r"], sorted(config["target_modules"])) == (4, ["query", "value"])

    again = tmp_path / "again"
    jobs(server, "download", job["id"], "--type", "adapter", "--output", again)
    for file in output.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()
    refused = jobs(server, "download", job["id"], "--output", again, status=2)
    assert "holds files already" in refused
    jobs(server, "download", job["id"], "--output", again, "--force")


def test_listings_agree_with_the_api(server: Server, trained: dict[str, Any]) -> None:
    key = trained["id"]
    assert trained in as_json(server, "list")
    assert as_json(server, "get", key) == trained
    assert as_json(server, "events", key, "--limit", 1000) == server.events(key)
    lines = jobs(server, "events", key, "--follow", "--format", "json").splitlines()
    assert [json.loads(line) for line in lines] == server.events(key)
    assert as_json(server, "checkpoints", key)[0]["step_number"] == trained["total_steps"]
    assert "ft:" not in jobs(server, "list") and key in jobs(server, "list")
    assert "training loss=" in jobs(server, "events", key, "--follow")


def test_refusals_end_with_3_and_failures_with_1(server: Server) -> None:
    assert "job_not_active" not in jobs(server, "cancel", "ftjob-none", status=3)
    assert "nothing" in jobs(server, "create", "--dataset", "nothing", status=3)
    job = server.create_job(server.create_dataset()["id"])["id"]
    text = jobs(server, "download", job, "--output", "/tmp/never", status=1)
    assert "no adapter: its status is queued" in text
    jobs(server, "pause", job)
    jobs(server, "resume", job)
    jobs(server, "cancel", job)
    assert "job_not_active" in jobs(server, "cancel", job, status=3)
