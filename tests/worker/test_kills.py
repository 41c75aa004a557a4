"""SIGKILL at any moment: the same adapter, to the bit, as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splitfrozen_server.jobs.events import DIVERGED
from splitfrozen_server.worker.control_client import ControlClient
from splitfrozen_server.worker.loop import work_forever
from splitfrozen_server.worker.turns import Turns
from splitfrozen_server.worker.workspace import Workspace
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
    assert DIVERGED not in server.log.read_text()  # of a step that was made again


def test_a_worker_killed_at_random_moments_changes_nothing(
    start_server: Callable[..., Server],
    tiny_model: Callable[[str], Path],
    bert: ShardMaker,
    undisturbed: dict[str, Any],
    *,
    kills: int = 8,
) -> None:
    server = start_server(tiny_model("bert"), "--no-worker")
    chance = random.Random(1)
    with Workers(server) as workers:
        job = start_job(server, bert)
        for _ in range(kills):
            workers.start()
            seen = server.job(job)["steps_completed"]
            server.wait(lambda seen=seen: is_over_or_past(server, job, seen + 1), "a new step")
            time.sleep(chance.uniform(0, 0.1))
            workers.kill()
        workers.start()
        check(server, job, undisturbed)
    assert any("Going on from the checkpoint" in text for text in server.messages(job))


def test_killing_the_server_and_its_worker_changes_nothing(
    start_server: Callable[..., Server],
    tiny_model: Callable[[str], Path],
    bert: ShardMaker,
    undisturbed: dict[str, Any],
) -> None:
    server = start_server(tiny_model("bert"))
    job = start_job(server, bert)
    server.wait(lambda: is_over_or_past(server, job, 5), "step 5")
    server.kill_worker()
    server.wait(lambda: is_over_or_past(server, job, 20), "step 20")
    server.kill()
    server.start()
    check(server, job, undisturbed)


def test_a_job_that_kills_its_worker_fails_and_frees_the_queue(
    start_server: Callable[..., Server], tiny_model: Callable[[str], Path], bert: ShardMaker
) -> None:
    server = start_server(tiny_model("bert"), "--no-worker")
    deadly = start_job(server, bert)
    harmless = str(server.create_job(server.job(deadly)["training_file"])["id"])
    control = ControlClient(server.data_dir / "run" / "control.sock", "worker-0")
    for _ in range(3):
        job = control.lease()  # and is heard of no more
        assert job is not None and job.id == deadly
    job = control.lease()
    assert job is not None and job.id == harmless
    error = server.job(deadly)["error"]
    assert error["code"] == "internal_error" and "batch_size" in error["message"]
    for step in (1, 2, 3, 4):  # each attempt gets further: this one is only unlucky
        progress = {"steps_completed": step, "total_steps": 12, "trained_tokens": 1}
        control.report(job, [], progress)
        job = control.lease()
        assert job is not None and job.id == harmless
    control.close()


def test_a_full_disk_puts_the_job_back(
    start_server: Callable[..., Server],
    tiny_model: Callable[[str], Path],
    bert: ShardMaker,
    undisturbed: dict[str, Any],
) -> None:
    server = start_server(tiny_model("bert"), "--no-worker")
    job = start_job(server, bert)
    with Workers(server) as workers:
        workers.start(largest_file=50_000)
        server.wait(lambda: any("disk is full" in m for m in server.messages(job)), "it says so")
        workers.kill()
        workers.start()
        check(server, job, undisturbed)


class Workers:
    """Workers of a server that runs none, forked from a process that has imported torch."""

    def __init__(self, server: Server) -> None:
        self._arguments = (server.data_dir, server.data_dir / "run" / "control.sock")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.worker.test_kills"])
        self._process: Any = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self, *, largest_file: int | None = None) -> None:
        arguments = (*self._arguments, largest_file)
        self._process = self._context.Process(target=work, args=arguments)
        self._process.start()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def work(data_dir: Path, control_socket: Path, largest_file: int | None) -> None:
    """What the worker process does, without inference; on a disk that seems full if so wished."""
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    torch.set_num_threads(1)
    control = ControlClient(control_socket, "worker-0")
    work_forever(control, Workspace(data_dir / "worker"), Turns())


def is_over_or_past(server: Server, job_id: str, step: int) -> bool:
    found = server.job(job_id)
    return found["steps_completed"] >= step or found["finished_at"] is not None
