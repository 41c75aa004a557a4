"""The memory that `splitfrozen-bundle inspect` estimates against that of a process that runs.

    python -m benchmarks.memory_estimate                      MiniLM, stories260K, the gpt2 shape
    python -m benchmarks.memory_estimate --model DIR --cut 3  any model
    python -m benchmarks.memory_estimate --model-shape gpt2   a shape with random weights

Measured is what `splitfrozen-bundle bench` measures: the largest resident size of a process that
imports what a device needs and no more, after 5 runs of 1x128 tokens, then after 5 of 8x128. The
last line is one JSON object.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.real_inputs import data_root, minilm_directory
from benchmarks.shapes import SHAPES, write_shape
from splitfrozen_export.export import export_bundle
from splitfrozen_export.request import Request
from splitfrozen_export.tools.bench import bench_bundle
from splitfrozen_export.tools.overview import read_overview

PRECISIONS = ("int8", "fp32", "int4")


@click.command()
@click.option("--model", help="Hub id or directory; goes with --cut.")
@click.option("--model-shape", type=click.Choice(list(SHAPES)), help="Random weights of a shape.")
@click.option("--cut", type=click.IntRange(1), help="Blocks on the device.  [default: 4]")
@click.option("--precision", "precisions", multiple=True, default=PRECISIONS, show_default=True)
def memory_estimate(
    model: str | None, model_shape: str | None, cut: int | None, precisions: tuple[str, ...]
) -> None:
    """Hold estimates against measured processes."""
    rows = []
    click.echo("| model | precision | shape | estimate MB | measured MB | estimate / measured |")
    click.echo("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="splitfrozen-estimate-") as scratch:
        for name, directory, blocks in _models(model, model_shape, cut, Path(scratch)):
            for precision in precisions:
                bundle = Path(scratch) / f"{name}-{precision}"
                request = Request(
                    directory, blocks, bundle, precision, max_error=1.0, generation=False
                )
                export_bundle(request, lambda step: None)
                for row in compare(bundle):
                    rows.append({"model": f"{name} cut {blocks}", "precision": precision, **row})
                    click.echo(_line(rows[-1]))
    ratios = [row["ratio"] for row in rows]
    click.echo(json.dumps({"least": min(ratios), "most": max(ratios), "rows": rows}))


def compare(bundle: Path) -> Iterator[dict[str, Any]]:
    """Estimate and measurement in MB (10^6 bytes), shape after shape."""
    memory = read_overview(bundle).memory
    (run,) = bench_bundle(bundle, threads=[1], rounds=3)["runs"]
    for shape, found in run["shapes"].items():
        estimate, measured = memory.peak(shape), found["memory_peak"]
        yield {
            "shape": shape,
            "estimate_mb": round(estimate / 1e6, 1),
            "measured_mb": round(measured / 1e6, 1),
            "ratio": round(estimate / measured, 2),
        }


def _models(
    model: str | None, shape: str | None, cut: int | None, scratch: Path
) -> Iterator[tuple[str, str, int]]:
    """Name, directory and cut."""
    if model is not None:
        yield Path(model).name, model, cut or 4
        return
    if shape is None:
        yield "MiniLM", str(minilm_directory()), 4
        root = data_root()
        if root is not None:
            yield "stories260K", str(root / "models" / "stories260K"), 2
    chosen = shape or "gpt2"
    yield f"{chosen} shape", str(write_shape(chosen, scratch / chosen)), cut or 4


def _line(row: dict[str, Any]) -> str:
    return "| " + " | ".join(str(value) for value in row.values()) + " |"


if __name__ == "__main__":
    memory_estimate()
