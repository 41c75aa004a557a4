"""Devices push while the server trains: half of their data, then the rest, then the seal."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from benchmarks.walkthrough.children import Children, CommandError
from benchmarks.walkthrough.commands import Edge, Server
from benchmarks.walkthrough.crew import Crew
from benchmarks.walkthrough.plan import Plan
from benchmarks.walkthrough.stages import Stage, Stages

EARLY = 0.5  # of every device's rows are pushed before training starts, the rest while it runs
START_PATIENCE = 120.0  # seconds to wait for the first step before pushing on
PUSHES_AT_ONCE = 2

Push = dict[str, Any]  # a push's report


@dataclass
class Watch:
    """What the job's events have said so far."""

    stage: Stage
    started: threading.Event = field(default_factory=threading.Event)
    accuracies: dict[int, float] = field(default_factory=dict)  # step -> held-out accuracy
    step: int = 0

    def see(self, event: dict[str, Any]) -> None:
        """Take in one event of `jobs events`."""
        data = event.get("data") or {}
        if "valid_accuracy" in data:
            self.accuracies[data["step"]] = data["valid_accuracy"]
        if "train_loss" in data:
            self.started.set()
            self.step = data["step"]
            self.stage.advance_to(self.step, data["total_steps"])
            self.stage.detail(f"step {self.step}, loss {data['train_loss']:.3f}")


@dataclass(frozen=True)
class Trained:
    """What pushing and training gave."""

    job: dict[str, Any]  # as the server describes it at the end
    pushes: list[tuple[Push, Push]]  # per device: the first half, the rest
    accuracies: dict[int, float]  # step -> held-out accuracy, by the server's own evaluation
    steps: int
    steps_before_seal: int  # made while devices were still pushing

    def per_device(self, name: str) -> list[Any]:
        """A number of the push reports, summed for each device."""
        return [first[name] + second[name] for first, second in self.pushes]


def push_and_train(
    children: Children,
    server: Server,
    devices: list[Edge],
    job: str,
    dataset: str,
    plan: Plan,
    stages: Stages,
) -> Trained:
    """Push to `dataset` from all devices, seal it, and follow the job to its end.

    Raises CommandError when a push or the job fails.
    """
    with (
        stages.stage("The server trains on what has arrived") as training,
        Crew(children, at_once=PUSHES_AT_ONCE + 1) as crew,
    ):
        watch = Watch(training)
        following = crew.submit(server.follow, job, watch.see)
        with stages.stage(f"{len(devices)} devices push their data") as pushing:
            first = _push_all(crew, devices, dataset, plan, EARLY, pushing)
            _wait_for_training(watch, following)
            second = _push_all(crew, devices, dataset, plan, 1.0, pushing)
            steps = watch.step
            server.manage("datasets", "seal", dataset)
        ended = following.result()
    if ended["status"] != "succeeded":
        raise CommandError(f"the job ended as {ended['status']}: {ended['error']}")
    pushes = list(zip(first, second, strict=True))
    return Trained(ended, pushes, watch.accuracies, watch.step, steps)


def _push_all(
    crew: Crew, devices: list[Edge], dataset: str, plan: Plan, share: float, stage: Stage
) -> list[Push]:
    """Every device pushes its file, which holds `share` of its rows; known ones are skipped."""
    files = [plan.write_device_file(index, share) for index in range(len(devices))]
    pushes = [
        crew.submit(device.push, plan.bundle, dataset, file)
        for device, file in zip(devices, files, strict=True)
    ]
    stage.detail("the first half" if share < 1 else "the rest, while the server trains")
    reports = []
    for done, push in enumerate(pushes, 1):
        reports.append(push.result())
        stage.advance_to(done, len(pushes))
    return reports


def _wait_for_training(watch: Watch, following: Future[dict[str, Any]]) -> None:
    """Wait for the first step; no longer than until the job ends or patience does."""
    deadline = time.monotonic() + START_PATIENCE
    while not watch.started.wait(0.1) and time.monotonic() < deadline:
        if following.done():
            following.result()
            return
