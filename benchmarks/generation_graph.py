"""What the graph for generation costs beside the one for whole texts.

    python -m benchmarks.generation_graph                          gpt2 shape, cut 4, int8
    python -m benchmarks.generation_graph --model DIR --cut 2      any decoder

- speed of `device_with_past.onnx` against `device.onnx`: 128 tokens at once, and one token behind
  128 others. CPU time of the process, one thread, interleaved rounds, median;
- memory of a process that imports NumPy and ONNX Runtime, reads 128 tokens and takes 16 steps:
  RSS, PSS (a page that both sessions map counts once) and the anonymous part; with and without
  ONNX Runtime's prepacking of weights;
- the share of activations, and of their codes on the int8 wire, that differ between a text fed
  token by token and at once, with and without the pass that keeps two rows
  (`splitfrozen_export.past.two_rows`);
- bytes on the disk.

The last line is one JSON object.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click

from benchmarks.shapes import SHAPES, write_shape
from benchmarks.speed.generation import (
    WAYS,
    empty_past,
    make_ids,
    open_graph,
    past_of,
    step,
    whole_text,
)
from splitfrozen.graph import DEVICE_GRAPH, DEVICE_WITH_PAST, HIDDEN, HIDDEN_Q

Run = Callable[[], object]


@click.command()
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model-shape", type=click.Choice(list(SHAPES)), default="gpt2", show_default=True)
@click.option("--cut", type=click.IntRange(1), default=4, show_default=True)
@click.option("--precision", default="int8", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True)
def generation_graph(
    model: Path | None, model_shape: str, cut: int, precision: str, rounds: int
) -> None:
    """Measure speed, memory, equality and size of both graphs."""
    with tempfile.TemporaryDirectory(prefix="splitfrozen-generation-") as scratch:
        source = model or write_shape(model_shape, Path(scratch) / "model")
        plain, kept = write_graphs(source, cut, precision, Path(scratch))
        fields = json.loads((source / "config.json").read_text())
        found: dict[str, Any] = {
            "model": model_shape if model is None else str(model),
            "cut": cut,
            "precision": precision,
            "milliseconds": measure_speed(plain, kept, fields["vocab_size"], rounds),
            "memory_mb": measure_memory(kept, fields["vocab_size"]),
            "differing": {
                "one row": differing(plain, fields["vocab_size"]),
                "two rows": differing(kept, fields["vocab_size"]),
            },
            "bytes": {path.name: path.stat().st_size for path in sorted(kept.iterdir())},
        }
    for part in ("milliseconds", "memory_mb", "differing", "bytes"):
        click.echo(f"\n{part}")
        for name, value in found[part].items():
            click.echo(f"  {name:40} {value}")
    click.echo(json.dumps(found))


def write_graphs(model: Path, cut: int, precision: str, directory: Path) -> tuple[Path, Path]:
    """Directories with device.onnx and device_with_past.onnx: without and with two rows."""
    from splitfrozen_export.graph.finish import finish_graph
    from splitfrozen_export.graph.trace import export_graph, opset_of, save_graph
    from splitfrozen_export.past import export_cached_graph, save_beside
    from splitfrozen_export.precision.quantize import Recipe, default_embedding
    from splitfrozen_export.split import load_device_segment, resolve_model

    segment = load_device_segment(resolve_model(model), cut, stream=True)
    recipe = Recipe(precision, default_embedding(precision))
    device = export_graph(segment)
    with patch("splitfrozen_export.past.graph.keep_two_rows"):
        plain = export_cached_graph(segment, opset=opset_of(device))
    kept = export_cached_graph(segment, opset=opset_of(device))
    finish_graph(device, segment, recipe, wire="int8")
    found = []
    for name, cached in (("one-row", plain), ("two-rows", kept)):
        found.append(directory / name)
        found[-1].mkdir()
        save_graph(device.clone(), found[-1])
        finish_graph(cached, segment, recipe, wire="int8")
        save_beside(cached, found[-1])
    return found[0], found[1]


def measure_speed(plain: Path, kept: Path, vocabulary: int, rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of each way to run, all in every round."""
    ids = make_ids(vocabulary)
    device = open_graph(kept / DEVICE_GRAPH)
    sessions = {
        "one row": open_graph(plain / DEVICE_WITH_PAST),
        "two rows": open_graph(kept / DEVICE_WITH_PAST),
    }
    runs: dict[str, Run] = {"device.onnx, 128 tokens": partial(whole_text, device, ids)}
    for name, session in sessions.items():
        past = past_of(whole_text(session, ids))
        runs[f"with past, 128 tokens, {name}"] = partial(whole_text, session, ids)
        runs[f"with past, a step behind 128, {name}"] = partial(step, session, ids[:, :1], past)
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            repeats = 10 if "step" in name else 1
            start = time.process_time()
            for _ in range(repeats):
                run()
            samples[name].append(1e3 * (time.process_time() - start) / repeats)
    return {name: round(statistics.median(values), 3) for name, values in samples.items()}


def measure_memory(directory: Path, vocabulary: int) -> dict[str, dict[str, float]]:
    """MB (10^6 bytes) of a process that reads 128 tokens and takes 16 steps, way by way."""
    found = {}
    for prepack in (True, False):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.speed.generation"]
            command += [str(directory), way, str(vocabulary), str(int(prepack))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[way if prepack else f"{way}, no prepacking"] = json.loads(done.stdout)
    return found


def differing(
    directory: Path, vocabulary: int, texts: int = 4, tokens: int = 64
) -> dict[str, float]:
    """Share of activations, and of their int8 codes, that change when fed token by token."""
    device = open_graph(directory / DEVICE_GRAPH)
    session = open_graph(directory / DEVICE_WITH_PAST)
    changed: dict[str, list[float]] = {HIDDEN: [], HIDDEN_Q: []}
    for seed in range(texts):
        ids = make_ids(vocabulary, tokens, seed)
        expected = whole_text(device, ids)
        past = empty_past(session)
        for at in range(tokens):
            outputs = step(session, ids[:, at : at + 1], past)
            past = past_of(outputs)
            for name, shares in changed.items():
                shares.append(float((outputs[name][:, 0] != expected[name][:, at]).mean()))
    return {name: statistics.mean(shares) for name, shares in changed.items()}


if __name__ == "__main__":
    generation_graph()
