"""Federated LoRA: plain FedAvg of the factors and the head, every device with the whole model.

    python -m benchmarks.baselines.fedlora --json

A round: every device takes the global weights, trains one local epoch with a fresh optimizer and
sends its weights back; the server averages them, weighted by examples. As many rounds as epochs.
The devices run one after the other here; time is counted for each.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from safetensors.torch import load, save
from torch import Tensor

from benchmarks.baselines.lora import Encoded, Recipe, Trainee, accuracy, load_trainee
from benchmarks.baselines.lora import train_batches as run_steps
from benchmarks.baselines.outcome import CpuClock, Outcome, Progress, no_progress
from benchmarks.labelled import Labelled, label_names
from splitfrozen_server.worker.schedule import sealed_batches


@dataclass
class Device:
    """One device's data and what it has spent."""

    rows: Sequence[Labelled]
    index: int
    clock: CpuClock = field(default_factory=CpuClock)
    examples: list[Encoded] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0


def train_federated(
    model: str,
    parts: Sequence[Sequence[Labelled]],
    held_out: Sequence[Labelled],
    recipe: Recipe,
    *,
    labels: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> Outcome:
    """Train on one part of the rows per device; a device without rows takes no part."""
    known = labels or label_names(row for part in parts for row in part)
    trainee = load_trainee(model, known, recipe)
    started = time.perf_counter()
    devices = [Device(rows, index) for index, rows in enumerate(parts) if rows]
    scored = trainee.encode(held_out)
    history = [accuracy(trainee, scored)]
    per_round = sum(-(-len(device.rows) // recipe.batch_size) for device in devices)
    shared = trainee.body()
    for turn in range(recipe.epochs):
        received: list[tuple[bytes, int]] = []
        for device in devices:
            received.append((_local_epoch(trainee, device, shared, turn), len(device.rows)))
            progress(_steps_done(devices, device, turn, recipe), per_round * recipe.epochs)
        shared = save(average([(load(body), weight) for body, weight in received]))
        _put(trainee, load(shared))
        history.append(accuracy(trainee, scored))
    return Outcome(
        method="fedlora",
        before=history[0],
        after=history[-1],
        history=history[1:],
        cpu_seconds=[device.clock.seconds for device in devices],
        bytes_up=[device.bytes_up for device in devices],
        bytes_down=[device.bytes_down for device in devices],
        steps=per_round * recipe.epochs,
        wall_seconds=time.perf_counter() - started,
        weights_sha256=hashlib.sha256(shared).hexdigest(),
    )


def average(updates: Sequence[tuple[Mapping[str, Tensor], int]]) -> dict[str, Tensor]:
    """Mean of the tensors of each name, weighted by the examples behind them."""
    total = sum(weight for _, weight in updates)
    names = updates[0][0].keys()
    return {
        name: sum(
            (tensors[name] * (weight / total) for tensors, weight in updates), torch.zeros(())
        )
        for name in names
    }


def _local_epoch(trainee: Trainee, device: Device, shared: bytes, turn: int) -> bytes:
    """One device's part of a round; returns the body that it uploads."""
    recipe = trainee.recipe
    with device.clock.counting():
        if not device.examples:
            device.examples = trainee.encode(device.rows)
        _put(trainee, load(shared))
        plan = sealed_batches(
            [len(example.ids) for example in device.examples],
            seed=recipe.seed + (turn << 16) + device.index,
            epochs=1,
            batch_size=recipe.batch_size,
        )
        batches = ([device.examples[index] for index in batch] for batch in plan)
        start, end = turn / recipe.epochs, (turn + 1) / recipe.epochs
        for _ in run_steps(
            trainee, trainee.optimizer(), batches, start=start, end=end, steps=len(plan)
        ):
            pass
        body = trainee.body()
    device.bytes_down += len(shared)
    device.bytes_up += len(body)
    return body


def _put(trainee: Trainee, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trainee.weights().items():
            parameter.copy_(tensors[name])


def _steps_done(devices: Sequence[Device], last: Device, turn: int, recipe: Recipe) -> int:
    steps = [-(-len(device.rows) // recipe.batch_size) for device in devices]
    return turn * sum(steps) + sum(steps[: devices.index(last) + 1])


if __name__ == "__main__":
    from benchmarks.baselines.command import run_fedlora

    run_fedlora()
