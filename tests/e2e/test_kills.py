"""Power cuts at random moments: devices and server are killed and started again."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Stack, write_rows

WORDS = [
    "warm",
    "cold",
    "light",
    "dark",
    "door",
    "window",
    "music",
    "silence",
    "red",
    "green",
    "lamp",
    "heater",
]


def sentences(count: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        text = " ".join(rng.choices(WORDS, k=rng.randint(3, 12)))
        rows.append({"text": f"{text} {number}", "label": "ab"[number % 2]})
    return rows


@pytest.fixture
def dataset(stack: Stack, tiny_model: Callable[[str], Path], tiny_bundle: Path) -> str:
    stack.admin("models", "add", "tiny", tiny_model("gpt2"))
    stack.admin("bundles", "add", tiny_bundle)
    stack.admin(
        "datasets", "create", "kills", "--model", "tiny", "--cut", 2,
        "--task", "classification", "--labels", "a,b",
    )  # fmt: skip
    return "kills"


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream)


def test_a_push_killed_at_random_moments_brings_every_example_exactly_once(
    stack: Stack, dataset: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    rows = sentences(3600, seed=1)
    files = [
        write_rows(tmp_path / f"rows{number}.jsonl", rows[number * 400 : (number + 1) * 400])
        for number in range(9)
    ]
    device = stack.device("pi")

    def push(data: Path) -> list[str]:
        return device.command("push", "--bundle", tiny_bundle, "--dataset", dataset, "--data", data)

    began = time.monotonic()
    assert start(push(files[0]), tmp_path / "push.log").wait() == 0
    undisturbed = time.monotonic() - began  # seconds; machines differ tenfold
    rng = random.Random(7)
    kills = 0
    for data in files[1:]:
        process = start(push(data), tmp_path / "push.log")
        time.sleep(rng.uniform(0.3, 0.9) * undisturbed)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills >= 3, "the pushes ended before they could be killed"
    for data in files:
        device.push(tiny_bundle, dataset, data)
    found = stack.admin("datasets", "get", dataset)
    assert found["examples"] == len(rows)
    assert [device.push(tiny_bundle, dataset, data)["bytes_up"] for data in files] == [0] * 9
    assert stack.admin("datasets", "get", dataset)["examples"] == len(rows)


def test_a_killed_server_loses_nothing_acknowledged_and_its_job_goes_on(
    stack: Stack, dataset: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    rows = sentences(1200, seed=2)
    data = write_rows(tmp_path / "rows.jsonl", rows)
    device = stack.device("pi")
    job = stack.admin(
        "jobs", "create", "--dataset", dataset, "--suffix", "kills", "--epochs", 4,
        "--batch-size", 16, "--save-every", 20,
    )  # fmt: skip
    push = start(
        device.command("push", "--bundle", tiny_bundle, "--dataset", dataset, "--data", data),
        tmp_path / "push.log",
    )
    rng = random.Random(3)
    acknowledged = 0
    for _ in range(3):
        time.sleep(rng.uniform(1.0, 3.0))
        stack.kill()
        stack.start()
        stored = stack.admin("datasets", "get", dataset)["examples"]
        assert stored >= acknowledged
        acknowledged = stored
    assert push.wait(120) == 0, (tmp_path / "push.log").read_text()
    assert stack.admin("datasets", "get", dataset)["examples"] == len(rows)
    stack.admin("datasets", "seal", dataset)
    time.sleep(2.0)
    stack.kill()  # while it trains
    stack.start()
    final = wait_for_end(stack, job["id"])
    assert final["status"] == "succeeded", final
    events = stack.admin("jobs", "events", job["id"], "--limit", 1000)
    steps = [event["data"] for event in events if "train_loss" in event["data"]]
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    assert sum(step["examples"] for step in steps) == 4 * len(rows)


def wait_for_end(stack: Stack, job: str, seconds: float = 200) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = stack.admin("jobs", "get", job)
        if found["status"] in ("succeeded", "failed", "cancelled"):
            return found
        time.sleep(0.5)
    raise AssertionError(f"the job does not end: {found}\n{stack.log.read_text()[-3000:]}")
