"""Centralised LoRA: all data in one place, same frozen layers, same steps. The mark to reach.

    python -m benchmarks.baselines.centralised --json

The order of batches is that of a SplitFrozen job on a dataset sealed before its start.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from itertools import islice

from benchmarks.baselines.lora import Recipe, accuracy, load_trainee, train_batches
from benchmarks.baselines.outcome import CpuClock, Outcome, Progress, no_progress
from benchmarks.labelled import Labelled, label_names
from splitfrozen_server.worker.schedule import sealed_batches


def train_centralised(
    model: str,
    training: Sequence[Labelled],
    held_out: Sequence[Labelled],
    recipe: Recipe,
    *,
    labels: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> Outcome:
    """Train on the pooled rows; `labels` fixes their order, else it is that of appearance."""
    trainee = load_trainee(model, labels or label_names(training), recipe)
    started, clock = time.perf_counter(), CpuClock()
    with clock.counting():
        examples = trainee.encode(training)
    scored = trainee.encode(held_out)
    history = [accuracy(trainee, scored)]
    plan = sealed_batches(
        [len(example.ids) for example in examples],
        seed=recipe.seed,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
    )
    batches = ([examples[index] for index in batch] for batch in plan)
    losses = train_batches(
        trainee, trainee.optimizer(), batches, start=0.0, end=1.0, steps=len(plan)
    )
    for epoch in range(recipe.epochs):
        first, last = (len(plan) * count // recipe.epochs for count in (epoch, epoch + 1))
        with clock.counting():
            for done, _ in enumerate(islice(losses, last - first), first + 1):
                progress(done, len(plan))
        history.append(accuracy(trainee, scored))
    return Outcome(
        method="centralised",
        before=history[0],
        after=history[-1],
        history=history[1:],
        cpu_seconds=[clock.seconds],
        bytes_up=[],
        bytes_down=[],
        steps=len(plan),
        wall_seconds=time.perf_counter() - started,
        weights_sha256=hashlib.sha256(trainee.body()).hexdigest(),
    )


if __name__ == "__main__":
    from benchmarks.baselines.command import run_centralised

    run_centralised()
