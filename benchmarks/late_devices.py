"""What late devices cost: a job that begins with two of five devices against one on everything.

    python -m benchmarks.late_devices

The demo's data, devices with their own labels, the job's own schedule; the arithmetic is that of
the baselines (whole model in fp32), so only the order of examples differs between the two runs.
Three seeds from --seed on. The last line is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import click
import numpy as np

from benchmarks.baselines.command import Run, baseline_options
from benchmarks.baselines.lora import Encoded, Recipe, accuracy, load_trainee, train_batches
from benchmarks.labelled import Labelled, deal, label_names
from splitfrozen_server.worker.schedule import PlannedStep, Schedule

FIRST = 2  # devices that are there when the job begins
SEEDS = 3


def visit_order(arrivals: Sequence[Sequence[int]], recipe: Recipe) -> Iterator[PlannedStep]:
    """Steps of a job that trains on each group of lengths until it has to wait for the next.

    The last group comes with the seal.
    """
    schedule = Schedule(seed=recipe.seed, epochs=recipe.epochs, batch_size=recipe.batch_size)
    for number, group in enumerate(arrivals):
        sealed = number == len(arrivals) - 1
        new: Sequence[int] = group
        while schedule.has_work(new_examples=len(new), sealed=sealed):
            yield from schedule.begin_pass(new, sealed=sealed)
            new = []


def final_accuracy(
    model: str, groups: Sequence[Sequence[Labelled]], held_out: Sequence[Labelled], recipe: Recipe
) -> float:
    """Train on groups of rows that arrive one after the other; share of held-out rows right."""
    rows = [row for group in groups for row in group]
    trainee = load_trainee(model, label_names([*rows, *held_out]), recipe)
    examples = trainee.encode(rows)
    lengths = iter([len(example.ids) for example in examples])
    arrivals = [[next(lengths) for _ in group] for group in groups]
    optimizer = trainee.optimizer()
    for step in visit_order(arrivals, recipe):
        batch: list[Encoded] = [examples[index] for index in step.examples]
        at = step.progress
        for _ in train_batches(trainee, optimizer, [batch], start=at, end=at, steps=1):
            pass
    return accuracy(trainee, trainee.encode(held_out))


@click.command()
@baseline_options("constant")
def run_late_devices(run: Run) -> None:
    """Two devices first and three later, against all five at once."""
    parts = deal(run.inputs.training, 5)
    early = [row for part in parts[:FIRST] for row in part]
    late = [row for part in parts[FIRST:] for row in part]
    found: dict[str, list[float]] = {"at_once": [], "late": []}
    for seed in range(run.recipe.seed, run.recipe.seed + SEEDS):
        recipe = replace(run.recipe, seed=seed)
        for name, groups in (("at_once", [[*early, *late]]), ("late", [early, late])):
            share = final_accuracy(run.inputs.model, groups, run.inputs.held_out, recipe)
            found[name].append(share)
            click.echo(f"seed {seed}  {name:8} {share:.1%}")
    means = {name: float(np.mean(values)) for name, values in found.items()}
    click.echo(json.dumps({**found, "late_minus_at_once": means["late"] - means["at_once"]}))


if __name__ == "__main__":
    run_late_devices()
