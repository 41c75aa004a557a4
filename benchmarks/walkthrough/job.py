"""The main job: export, serve, enrol, push while the server trains, download, predict."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from benchmarks.walkthrough.children import Children, CommandError
from benchmarks.walkthrough.commands import Edge, Server, export_bundle
from benchmarks.walkthrough.crew import Crew
from benchmarks.walkthrough.plan import Plan, bundle_facts
from benchmarks.walkthrough.stages import Stage, Stages
from splitfrozen_server.worker.settings import default_learning_rate

DATASET, HELD_OUT = "demo", "demo-heldout"
TESTER = "tester"  # the device that asks for predictions
EARLY = 2  # devices that push before the training starts; the others push while it runs
START_PATIENCE = 60.0  # seconds to wait for the first step before pushing on
STAGGER = 0.5  # seconds between two pushes


@dataclass(frozen=True)
class MainJob:
    """What the main job gave; accuracies are shares of the held-out examples."""

    before: float  # the server's evaluation of the untrained head
    after: float  # by split inference from a device
    fine_tuned_model: str
    job: str
    server: Server
    bundle_bytes: int
    learning_rate: float
    max_length: int
    cpu_seconds: list[float]  # per device: the whole push command, start-up included
    bytes_up: list[int]  # per device
    steps: int
    steps_before_last_push: int  # optimizer steps made while devices were still pushing
    export_seconds: float
    wall_seconds: float  # from the first push until the adapter is here


@dataclass
class Watch:
    """What the job's events have said so far."""

    stage: Stage
    started: threading.Event = field(default_factory=threading.Event)
    accuracies: list[tuple[int, float]] = field(default_factory=list)  # (step, accuracy)
    step: int = 0

    def see(self, event: dict[str, Any]) -> None:
        """Take in one event of `jobs events`."""
        data = event.get("data") or {}
        if "valid_accuracy" in data:
            self.accuracies.append((data["step"], data["valid_accuracy"]))
        if "train_loss" in data:
            self.started.set()
            self.step = data["step"]
            self.stage.advance_to(self.step, data["total_steps"])
            self.stage.detail(f"step {self.step}, loss {data['train_loss']:.3f}")


def run_main_job(children: Children, plan: Plan, stages: Stages) -> MainJob:
    """Run every step with the real commands. Raises CommandError."""
    started = time.monotonic()
    with stages.stage(f"Cut {plan.name} at {plan.settings.cut} and export") as stage:
        export_bundle(children, plan.model, plan.settings.cut, plan.bundle, stage.detail)
    export_seconds = time.monotonic() - started
    hidden_size, max_length, bundle_bytes = bundle_facts(plan.bundle)
    rate = default_learning_rate(hidden_size)
    with stages.stage("Start the server, publish the bundle"):
        server = Server.start(children, plan.state)
        _publish(server, plan)
    with stages.stage(f"Enrol {len(plan.parts)} devices"):
        devices, tester = _enrol(children, server, plan)
        tester.push(plan.bundle, HELD_OUT, plan.held_out_file)
    job = _create_job(server, plan, rate)
    pushed_from = time.monotonic()
    watch, reports, steps_then, ended = _push_and_train(
        children, server, devices, job, plan, stages
    )
    with stages.stage("Download the adapter"):
        server.manage("jobs", "download", job, "--type", "adapter", "--output", str(plan.adapter))
    wall_seconds = time.monotonic() - pushed_from
    with stages.stage("Classify the held-out texts, split in two"):
        after = _accuracy(tester, plan, ended["fine_tuned_model"])
    return MainJob(
        before=dict(watch.accuracies)[0],
        after=after,
        fine_tuned_model=ended["fine_tuned_model"],
        job=job,
        server=server,
        bundle_bytes=bundle_bytes,
        learning_rate=rate,
        max_length=max_length,
        cpu_seconds=[report["cpu_seconds"] for report in reports],
        bytes_up=[report["bytes_up"] for report in reports],
        steps=watch.step,
        steps_before_last_push=steps_then,
        export_seconds=export_seconds,
        wall_seconds=wall_seconds,
    )


def _publish(server: Server, plan: Plan) -> None:
    server.manage("models", "add", plan.name, plan.model)
    server.manage("bundles", "add", str(plan.bundle))
    where = ("--model", plan.name, "--cut", str(plan.settings.cut))
    what = ("--task", "classification", "--labels", ",".join(plan.labels))
    for name in (DATASET, HELD_OUT):
        server.manage("datasets", "create", name, *where, *what)


def _enrol(children: Children, server: Server, plan: Plan) -> tuple[list[Edge], Edge]:
    """The devices, and one more that only asks."""
    names = [f"device-{index + 1}" for index in range(len(plan.parts))]
    edges = [Edge(children, name, plan.device_state(name)) for name in [*names, TESTER]]
    uses = ("--uses", str(len(edges)), "--expires", "1h")
    token = server.manage("tokens", "create", "--role", "enrol", *uses)["token"]
    with Crew(children, at_once=2) as crew:
        for enrolled in [crew.submit(edge.enroll, server.url, token) for edge in edges]:
            enrolled.result()
    return edges[:-1], edges[-1]


def _create_job(server: Server, plan: Plan, rate: float) -> str:
    settings = plan.settings
    words = ["--dataset", DATASET, "--validation-dataset", HELD_OUT, "--suffix", DATASET]
    words += ["--epochs", str(settings.epochs), "--seed", str(settings.seed)]
    words += ["--learning-rate", str(rate), "--lr-schedule", settings.schedule]
    words += ["--min-devices", str(min(EARLY, len(plan.parts)))]
    return str(server.manage("jobs", "create", *words)["id"])


def _push_and_train(
    children: Children, server: Server, devices: list[Edge], job: str, plan: Plan, stages: Stages
) -> tuple[Watch, list[dict[str, Any]], int, dict[str, Any]]:
    """Push the later devices' data once training runs, seal, and follow the job to its end.

    Returns what was watched, the push reports, the steps made by the seal, and the job.
    """
    with (
        stages.stage("The server trains on what has arrived") as training,
        Crew(children, at_once=len(devices) + 1) as crew,
    ):
        watch = Watch(training)
        following = crew.submit(server.follow, job, watch.see)
        with stages.stage(f"{len(devices)} devices push their data") as pushing:
            reports = _push_all(crew, devices, plan, watch, following, pushing)
            steps = watch.step
            server.manage("datasets", "seal", DATASET)
        ended = following.result()
    if ended["status"] != "succeeded":
        raise CommandError(f"the job ended as {ended['status']}: {ended['error']}")
    return watch, reports, steps, ended


def _push_all(
    crew: Crew,
    devices: list[Edge],
    plan: Plan,
    watch: Watch,
    following: Future[dict[str, Any]],
    stage: Stage,
) -> list[dict[str, Any]]:
    pushes: list[Future[dict[str, Any]]] = []
    for index, device in enumerate(devices):
        if index >= EARLY:
            _wait_for_training(watch, following, pushes)
        pushes.append(crew.submit(device.push, plan.bundle, DATASET, plan.device_file(index)))
        time.sleep(STAGGER)
    reports = []
    for done, push in enumerate(pushes, 1):
        reports.append(push.result())
        stage.advance_to(done, len(pushes))
    return reports


def _wait_for_training(
    watch: Watch, following: Future[dict[str, Any]], pushes: list[Future[dict[str, Any]]]
) -> None:
    """Wait for the first step; no longer than until a push or the job fails, or patience ends."""
    deadline = time.monotonic() + START_PATIENCE
    while not watch.started.wait(0.1) and time.monotonic() < deadline:
        for push in pushes:
            if push.done():
                push.result()
        if following.done():
            following.result()
            return


def _accuracy(tester: Edge, plan: Plan, model: str) -> float:
    found = tester.predict(plan.bundle, model, plan.held_out_file)
    pairs = zip(found, plan.held_out, strict=True)
    return sum(label == row.label for label, row in pairs) / len(found)
