"""The demo's report: a table, where things are, one summary line, and the same as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.walkthrough.job import TESTER, MainJob
from benchmarks.walkthrough.plan import Plan

MARGIN = 0.05  # accuracy that training must add
PRIVACY = (
    "Privacy: whoever runs the server can reconstruct the text from the activations. What stays "
    "yours is the server and the adapter; what the devices are spared is the training."
)


@dataclass(frozen=True)
class Report:
    """Everything that was measured."""

    plan: Plan
    main_job: MainJob
    baselines: dict[str, dict[str, Any]]
    total_seconds: float

    @property
    def helped(self) -> bool:
        """Whether training made held-out accuracy clearly better."""
        return self.main_job.after > self.main_job.before + MARGIN

    def document(self) -> dict[str, Any]:
        """One JSON object; accuracies are shares, sizes bytes, times seconds."""
        job, plan = self.main_job, self.plan
        return {
            "benchmark": "demo",
            "model": plan.name,
            "cut": plan.settings.cut,
            "devices": len(plan.parts),
            "epochs": plan.settings.epochs,
            "seed": plan.settings.seed,
            "examples": sum(len(part) for part in plan.parts),
            "held_out": len(plan.held_out),
            "helped": self.helped,
            "accuracy_before": job.before,
            "accuracy": job.after,
            "accuracy_centralised": self.baselines["centralised"]["after"],
            "accuracy_fedlora": self.baselines["fedlora"]["after"],
            "device_cpu_seconds": job.cpu_seconds,
            "device_cpu_seconds_fedlora": self.baselines["fedlora"]["cpu_seconds"],
            "bytes_up": job.bytes_up,
            "bytes_up_fedlora": self.baselines["fedlora"]["bytes_up"],
            "bytes_down_fedlora": self.baselines["fedlora"]["bytes_down"],
            "bundle_bytes": job.bundle.bytes,
            "steps": job.trained.steps,
            "steps_before_seal": job.trained.steps_before_seal,
            "export_seconds": job.export_seconds,
            "wall_seconds": job.wall_seconds,
            "total_seconds": self.total_seconds,
            "fine_tuned_model": job.fine_tuned_model,
            "adapter": str(plan.adapter),
            "machine": {"cores": os.cpu_count()},
        }

    def summary(self) -> str:
        """The last line for a person."""
        job, federated = self.main_job, self.baselines["fedlora"]
        verdict = "OK" if self.helped else "FAILED: training did not help"
        return (
            f"{verdict}: held-out accuracy {job.before:.1%} -> {job.after:.1%} "
            f"(centralised {self.baselines['centralised']['after']:.1%}, "
            f"federated {federated['after']:.1%}); devices spent {sum(job.cpu_seconds):.0f} "
            f"CPU-seconds and {_megabytes(job.bytes_up)} (federated: "
            f"{sum(federated['cpu_seconds']):.0f} and {_megabytes(federated['bytes_up'])}); "
            f"{self.total_seconds:.0f} s in all"
        )


def print_report(report: Report) -> None:
    """Write table and directions to standard output."""
    console = Console(highlight=False, soft_wrap=True)
    console.print()
    console.print(_table(report))
    job, plan = report.main_job, report.plan
    trained = job.trained
    console.print(
        f"{trained.steps_before_seal} of {trained.steps} training steps were made while devices "
        "still pushed. Device CPU is processor time: for SplitFrozen of the whole push commands, "
        "start-up included; for federated LoRA of the training alone. A device downloads "
        f"{job.bundle.bytes / 1e6:.0f} MB of model once; for federated LoRA the whole model."
    )
    console.print(f"\n{PRIVACY}\n")
    port = job.server.url.rpartition(":")[2]
    state = _near(plan.device_state(TESTER))
    for name, words in (
        ("Adapter", f"{_near(plan.adapter)}  (loads with peft into the untouched {plan.name})"),
        ("Server", f"splitfrozen-server serve --data-dir {_near(plan.state)} --port {port}"),
        ("API", f"{job.server.url}/docs  (token: {_near(plan.state / 'admin.token')})"),
        (
            "Ask",
            f"splitfrozen-edge predict --state-dir {state} --bundle {_near(plan.bundle)} "
            f"--model {job.fine_tuned_model} --text '{plan.held_out[0].text}'",
        ),
    ):
        console.print(f"{name:8} {words}", markup=False)
    console.print()


def _table(report: Report) -> Table:
    plan, job = report.plan, report.main_job
    title = (
        f"{plan.name}, cut {plan.settings.cut}: {len(plan.labels)} labels, "
        f"{sum(len(part) for part in plan.parts)} examples on {len(plan.parts)} devices, "
        f"{plan.settings.epochs} epochs"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for heading in ("held-out accuracy", "device CPU", "uploaded", "wall time"):
        table.add_column(heading, justify="right")
    centralised, federated = report.baselines["centralised"], report.baselines["fedlora"]
    table.add_row("before training", f"{job.before:.1%}", "", "", "")
    table.add_row(
        "SplitFrozen",
        f"[bold]{job.after:.1%}[/bold]",
        f"{sum(job.cpu_seconds):.1f} s",
        _megabytes(job.bytes_up),
        f"{job.wall_seconds:.0f} s",
    )
    table.add_row(
        "centralised LoRA",
        f"{centralised['after']:.1%}",
        "-",
        "all the text",
        f"{centralised['wall_seconds']:.0f} s",
    )
    table.add_row(
        "federated LoRA",
        f"{federated['after']:.1%}",
        f"{sum(federated['cpu_seconds']):.1f} s",
        _megabytes(federated["bytes_up"]),
        f"{federated['wall_seconds']:.0f} s",
    )
    return table


def _megabytes(sizes: list[int]) -> str:
    return f"{sum(sizes) / 1e6:.1f} MB"


def _near(path: Path) -> str:
    """A path as short as it can be written from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
