"""One contender in its own process, driven line by line over standard input and output.

    python -m benchmarks.speed.worker RUNNER NAME MODEL CUT GRAPH THREADS TOKENS

Once it can run it writes {"ready": true, "bytes": size of its files}. Then, one JSON object for
each line that it is sent:

    {"run": batch, "times": n}      -> {"cpu": seconds, "wall": seconds}, both for n runs
    {"hidden": path, "batch": n}    -> {"saved": path}; the activations as .npy

What any library prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Run = Callable[[Ids, Ids], NDArray[np.float32]]
BATCHES = (1, 8)


@dataclass(frozen=True)
class Task:
    """What a runner is to make ready."""

    name: str
    model: Path
    cut: int
    graph: Path | None
    threads: int
    tokens: int
    vocabulary: int = 0


@dataclass(frozen=True)
class Runner:
    """A contender that is ready: how to run it, and how large its files are."""

    run: Run
    size: int  # bytes


def make_ids(batch: int, tokens: int, vocabulary: int) -> Ids:
    """Token ids [batch, tokens]; the first row is the same for every batch."""
    generator = np.random.default_rng(0)
    return generator.integers(0, vocabulary, (max(BATCHES), tokens), np.int64)[:batch]


def _answer(task: Task, runner: Runner, order: dict[str, Any]) -> dict[str, Any]:
    batch = order["batch"] if "hidden" in order else order["run"]
    ids = make_ids(batch, task.tokens, task.vocabulary)
    mask = np.ones_like(ids)
    if "hidden" in order:
        np.save(order["hidden"], np.asarray(runner.run(ids, mask), np.float32))
        return {"saved": order["hidden"]}
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(order["times"]):
        runner.run(ids, mask)
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def main() -> None:
    """Load, say so, and obey until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module, name, model, cut, graph, threads, tokens = sys.argv[1:]
    directory = Path(model)
    fields = json.loads((directory / "config.json").read_text())
    task = Task(
        name,
        directory,
        int(cut),
        Path(graph) if graph else None,
        int(threads),
        int(tokens),
        int(fields["vocab_size"]),
    )
    runner: Runner = import_module(f"benchmarks.speed.{module}").load(task)
    answers.write(json.dumps({"ready": True, "bytes": runner.size}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(_answer(task, runner, json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
