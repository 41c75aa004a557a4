"""Both baselines on the demo's own split, side by side, as the commands that they are."""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.walkthrough.children import Children
from benchmarks.walkthrough.crew import Crew
from benchmarks.walkthrough.job import MainJob
from benchmarks.walkthrough.plan import Plan
from benchmarks.walkthrough.stages import Stage, Stages

TITLES = {
    "centralised": "For comparison: centralised LoRA",
    "fedlora": "For comparison: federated LoRA",
}


def run_baselines(
    children: Children, plan: Plan, main_job: MainJob, stages: Stages
) -> dict[str, dict[str, Any]]:
    """Each method's outcome by its name. Raises CommandError."""
    with Crew(children, at_once=len(TITLES)) as crew:
        waiting = {
            method: crew.submit(_run, method, children, plan, main_job, stages) for method in TITLES
        }
        return {method: outcome.result() for method, outcome in waiting.items()}


def _run(
    method: str, children: Children, plan: Plan, main_job: MainJob, stages: Stages
) -> dict[str, Any]:
    with stages.stage(TITLES[method]) as stage:
        child = children.start(method, _command(method, plan, main_job))
        outcome: dict[str, Any] = {}
        assert child.process.stdout is not None
        with child.process.stdout as lines:
            for line in lines:
                outcome = json.loads(line)
                _show(stage, outcome)
        if child.process.wait() != 0:
            raise child.failure()
    return outcome


def _show(stage: Stage, line: dict[str, Any]) -> None:
    if "done" in line:
        stage.advance_to(line["done"], line["total"])
        stage.detail(f"step {line['done']} of {line['total']}")


def _command(method: str, plan: Plan, main_job: MainJob) -> list[str]:
    settings = plan.settings
    command = [sys.executable, "-m", f"benchmarks.baselines.{method}", "--json"]
    command += ["--model", plan.model, "--cut", str(settings.cut)]
    command += ["--data", str(plan.training_file), "--heldout", str(plan.held_out_file)]
    command += ["--epochs", str(settings.epochs), "--seed", str(settings.seed)]
    command += ["--learning-rate", str(main_job.learning_rate)]
    command += ["--max-length", str(main_job.bundle.max_length)]
    if method == "fedlora":  # with the schedule that suits it
        return [*command, "--devices", str(settings.devices)]
    return [*command, "--schedule", settings.schedule]
