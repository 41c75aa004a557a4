"""The daemon against the real server: it joins, feeds, survives a server that is killed, seals."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Device, Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    running = Stack(tmp_path)
    running.start("--no-worker")
    yield running
    running.stop()


def append(path: Path, first: int, count: int) -> None:
    rows = ({"text": f"row {i} of the day", "label": "a"} for i in range(first, first + count))
    with path.open("a") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows))


def status(device: Device) -> Any:
    return json.loads(device.run("status", "--format", "json"))


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


@pytest.mark.long  # a heartbeat, which tells that the dataset is sealed, comes once a minute
def test_a_daemon_feeds_a_real_server_through_a_kill_until_the_dataset_is_sealed(
    tmp_path: Path, stack: Stack, tiny_model: Callable[[str], Path], tiny_bundle: Path
) -> None:
    stack.admin("models", "add", "tiny", tiny_model("gpt2"))
    stack.admin("bundles", "add", tiny_bundle)
    device = stack.device("pi")
    path = tmp_path / "app.jsonl"
    append(path, 0, 20)
    device.run(
        "join", "notes", "--data", path, "--bundle", tiny_bundle, "--task", "classification",
        "--max-wait", "0",
    )  # fmt: skip
    with subprocess.Popen(device.command("run"), stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: status(device)["server"])
            wait_for(lambda: stack.admin("datasets", "list"))
            wait_for(lambda: stack.admin("datasets", "get", "notes")["examples"] == 20)
            stack.kill()
            append(path, 20, 20)
            wait_for(lambda: status(device)["queued_bytes"] > 0)
            stack.start("--no-worker")
            wait_for(lambda: stack.admin("datasets", "get", "notes")["examples"] == 40)
            wait_for(lambda: status(device)["datasets"][0]["queued_shards"] == 0)
            assert status(device)["datasets"][0]["done_examples"] == 40
            stack.admin("datasets", "seal", "notes")
            append(path, 40, 5)
            wait_for(lambda: status(device)["following"][0]["state"] == "sealed")
            assert "takes no more examples" in device.run("status")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert stack.admin("datasets", "get", "notes")["examples"] == 40
