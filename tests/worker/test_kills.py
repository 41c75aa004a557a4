"""SIGKILL at any moment: the same adapter, to the bit, as if nothing had happened."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.worker.server import Server
from tests.worker.shards import ShardMaker, push_examples

JOB = {
    "hyperparameters": {"n_epochs": 10},
    "splitfrozen": {"lora": {"dropout": 0.2}, "eval_fraction": 0.1, "save_every": 3},
}


def start_job(server: Server, maker: ShardMaker) -> str:
    """The same dataset, in the same order, and the same job on any server."""
    dataset = server.create_dataset("same")["id"]
    push_examples(server, maker, dataset, 64)
    server.seal(dataset)
    return str(server.create_job(dataset, **JOB)["id"])


@pytest.fixture(scope="module")
def undisturbed(server: Server, bert: ShardMaker) -> dict[str, Any]:
    job = server.wait_for_end(start_job(server, bert))
    return {"result": job["splitfrozen"]["result"], "losses": server.losses(job["id"])}


def check(server: Server, job_id: str, undisturbed: dict[str, Any]) -> None:
    job = server.wait_for_end(job_id)
    assert job["status"] == "succeeded", job["error"]
    assert job["splitfrozen"]["result"] == undisturbed["result"]
    assert server.losses(job_id) == undisturbed["losses"]


def test_killing_the_worker_changes_nothing(
    start_server: Callable[[Path], Server],
    tiny_model: Callable[[str], Path],
    bert: ShardMaker,
    undisturbed: dict[str, Any],
) -> None:
    server = start_server(tiny_model("bert"))
    job = start_job(server, bert)
    chance = random.Random(1)
    total = len(undisturbed["losses"])
    for part in (0.1, 0.5, 0.9):
        step = int(part * total)
        server.wait(lambda step=step: is_over_or_past(server, job, step), f"step {step}")
        time.sleep(chance.uniform(0, 0.05))
        server.kill_worker()
    check(server, job, undisturbed)
    assert any("Going on from the checkpoint" in text for text in server.messages(job))


def test_killing_the_server_changes_nothing(
    start_server: Callable[[Path], Server],
    tiny_model: Callable[[str], Path],
    bert: ShardMaker,
    undisturbed: dict[str, Any],
) -> None:
    server = start_server(tiny_model("bert"))
    job = start_job(server, bert)
    for step in (5, 30):
        server.wait(lambda step=step: is_over_or_past(server, job, step), f"step {step}")
        server.kill()
        server.start()
    check(server, job, undisturbed)


def is_over_or_past(server: Server, job_id: str, step: int) -> bool:
    found = server.job(job_id)
    return found["steps_completed"] >= step or found["finished_at"] is not None
