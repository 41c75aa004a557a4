"""The baselines as commands. Without arguments: the demo's model, data and devices.

`--json` writes one JSON object per line: {"done", "total"} as it goes, the outcome at the end.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click

from benchmarks.baselines.lora import Recipe
from benchmarks.baselines.outcome import Outcome, Progress
from benchmarks.inputs import EXAMPLE, Inputs, choose_inputs
from benchmarks.labelled import Labelled, deal, label_names
from splitfrozen.errors import DataError, ModelError

Train = Callable[..., Outcome]


@dataclass(frozen=True)
class Run:
    """One invocation: what to train on and how to show it."""

    inputs: Inputs
    recipe: Recipe
    json_lines: bool


def baseline_options(schedule: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The flags of every baseline, joined into one `Run`; `schedule` is the default one."""
    return partial(_decorate, schedule)


def _decorate(schedule: str, command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def run(
        model: str | None, data: Path | None, heldout: Path | None, json_lines: bool, **rest: Any
    ) -> None:
        threads, devices = rest.pop("threads"), rest.pop("devices", None)
        rest["schedule"] = rest["schedule"] or schedule
        _set_up_torch(threads)
        try:
            chosen = Run(choose_inputs(model, data, heldout), Recipe(**rest), json_lines)
            command(chosen) if devices is None else command(chosen, devices)
        except (DataError, ModelError) as error:
            raise click.UsageError(str(error)) from error

    for option in _OPTIONS:
        run = option(run)
    return run


_DEFAULT = Recipe()
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OPTIONS: Sequence[Any] = (
    click.option("--json", "json_lines", is_flag=True, help="One JSON object on the last line."),
    click.option("--threads", default=1, show_default=True, help="Threads of the simulation."),
    click.option("--seed", default=_DEFAULT.seed, show_default=True),
    click.option("--max-length", default=_DEFAULT.max_length, show_default=True),
    click.option("--batch-size", default=_DEFAULT.batch_size, show_default=True),
    click.option(
        "--schedule",
        type=click.Choice(["constant", "linear"]),
        help="Of the learning rate.  [default: what suits the method]",
    ),
    click.option("--learning-rate", default=_DEFAULT.learning_rate, show_default=True),
    click.option("--alpha", default=_DEFAULT.alpha, show_default=True),
    click.option("--r", default=_DEFAULT.r, show_default=True),
    click.option("--epochs", default=_DEFAULT.epochs, show_default=True),
    click.option("--cut", default=_DEFAULT.cut, show_default=True, help="LoRA from this block up."),
    click.option("--heldout", type=_FILE, help="Held-out file; default: part of --data."),
    click.option("--data", type=_FILE, help=f"Classification file; default: {EXAMPLE.name}."),
    click.option("--model", help="Hub id or directory; default: all-MiniLM-L6-v2."),
)


@click.command()
@baseline_options("linear")
def run_centralised(run: Run) -> None:
    """Centralised LoRA on the pooled data."""
    from benchmarks.baselines.centralised import train_centralised

    inputs = run.inputs
    _show(run, train_centralised, inputs.training)


@click.command()
@click.option("--devices", default=5, show_default=True, help="Each has its own labels.")
@baseline_options("constant")  # a decaying rate costs it about ten points on the demo's data
def run_fedlora(run: Run, devices: int) -> None:
    """Federated LoRA (FedAvg) over devices that hold different labels."""
    from benchmarks.baselines.fedlora import train_federated

    _show(run, train_federated, deal(run.inputs.training, devices))


def _show(run: Run, train: Train, data: Sequence[Any]) -> None:
    labels = label_names(run.inputs.training)
    if run.json_lines:
        outcome = _train(run, train, data, labels, _print_progress)
        click.echo(json.dumps(asdict(outcome)))
        return
    from rich.progress import Progress as Bar

    with Bar(transient=True) as bar:
        task = bar.add_task(train.__name__.replace("_", " "))
        outcome = _train(
            run,
            train,
            data,
            labels,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    _print_outcome(outcome)


def _train(
    run: Run, train: Train, data: Sequence[Any], labels: list[str], progress: Progress
) -> Outcome:
    held_out: Sequence[Labelled] = run.inputs.held_out
    return train(run.inputs.model, data, held_out, run.recipe, labels=labels, progress=progress)


def _print_progress(done: int, total: int) -> None:
    click.echo(json.dumps({"done": done, "total": total}))


def _print_outcome(outcome: Outcome) -> None:
    click.echo(f"{outcome.method}: {outcome.steps} steps in {outcome.wall_seconds:.1f} s")
    for place, value in enumerate([outcome.before, *outcome.history]):
        click.echo(f"  after epoch {place}: {value:.1%}")
    click.echo(f"  CPU-seconds {sum(outcome.cpu_seconds):.1f}, bytes up {sum(outcome.bytes_up):,}")


def _set_up_torch(threads: int) -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(max(1, min(threads, os.cpu_count() or 1)))
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    # PEFT asks Transformers for it on every get_peft_model; nothing of ours calls it.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
