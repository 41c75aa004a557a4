"""The main job: export, serve, enrol, push while the server trains, download, predict."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.walkthrough.children import Children
from benchmarks.walkthrough.commands import Edge, Server, export_bundle
from benchmarks.walkthrough.crew import Crew
from benchmarks.walkthrough.plan import BundleFacts, Plan, read_facts
from benchmarks.walkthrough.stages import Stages
from benchmarks.walkthrough.training import EARLY, Trained, push_and_train
from splitfrozen_server.worker.settings import default_learning_rate

DATASET, HELD_OUT = "demo", "demo-heldout"
TESTER = "tester"  # the device that asks for predictions


@dataclass(frozen=True)
class MainJob:
    """What the main job gave."""

    after: float  # held-out accuracy by split inference from a device
    trained: Trained
    server: Server
    bundle: BundleFacts
    learning_rate: float
    export_seconds: float
    wall_seconds: float  # from the first push until the adapter is here

    @property
    def before(self) -> float:
        """Held-out accuracy of the untrained head, by the server's evaluation."""
        return self.trained.accuracies[0]

    @property
    def fine_tuned_model(self) -> str:
        """Name of the adapter on the server."""
        return str(self.trained.job["fine_tuned_model"])

    @property
    def cpu_seconds(self) -> list[float]:
        """Per device: processor time of its push commands, start-up included."""
        return self.trained.per_device("cpu_seconds")

    @property
    def bytes_up(self) -> list[int]:
        """Per device."""
        return self.trained.per_device("bytes_up")


def run_main_job(children: Children, plan: Plan, stages: Stages) -> MainJob:
    """Run every step with the real commands. Raises CommandError."""
    with Crew(children, at_once=1) as crew:
        exporting = crew.submit(_export, children, plan, stages)
        server = _serve(children, plan, stages)
        export_seconds = exporting.result()
    bundle = read_facts(plan.bundle)
    rate = default_learning_rate(bundle.hidden_size)
    with stages.stage("Publish the bundle, create the datasets"):
        _publish(server, plan)
    with stages.stage(f"Enrol {len(plan.parts)} devices"):
        devices, tester = _enrol(children, server, plan)
    with stages.stage("Push the held-out texts, create the job"):
        tester.push(plan.bundle, HELD_OUT, plan.held_out_file)
        job = _create_job(server, plan, rate)
    started = time.monotonic()
    trained = push_and_train(children, server, devices, job, DATASET, plan, stages)
    with stages.stage("Download the adapter"):
        server.manage("jobs", "download", job, "--type", "adapter", "--output", str(plan.adapter))
    wall_seconds = time.monotonic() - started
    with stages.stage("Classify the held-out texts, split in two"):
        after = _accuracy(tester, plan, str(trained.job["fine_tuned_model"]))
    return MainJob(after, trained, server, bundle, rate, export_seconds, wall_seconds)


def _export(children: Children, plan: Plan, stages: Stages) -> float:
    """Write the bundle; returns the seconds it took."""
    started = time.monotonic()
    with stages.stage(f"Cut {plan.name} at {plan.settings.cut} and export") as stage:
        export_bundle(children, plan.model, plan.settings.cut, plan.bundle, stage.detail)
    return time.monotonic() - started


def _serve(children: Children, plan: Plan, stages: Stages) -> Server:
    with stages.stage("Start the server, register the model"):
        server = Server.start(children, plan.state)
        server.manage("models", "add", plan.name, plan.model)
    return server


def _publish(server: Server, plan: Plan) -> None:
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
    words += ["--min-devices", str(len(plan.parts))]
    if fewest := plan.fewest_per_label(EARLY):
        words += ["--min-per-label", str(fewest)]
    return str(server.manage("jobs", "create", *words)["id"])


def _accuracy(tester: Edge, plan: Plan, model: str) -> float:
    found = tester.predict(plan.bundle, model, plan.held_out_file)
    pairs = zip(found, plan.held_out, strict=True)
    return sum(label == row.label for label, row in pairs) / len(found)
