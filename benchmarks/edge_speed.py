"""The device segment of one model, run by this project and by what a user would pick instead.

    python benchmarks/edge_speed.py --model-shape gpt2 --cut 4 --json
    python benchmarks/edge_speed.py --model DIR --cut 4 --peers torch-eager,openvino-int8

Each contender is a process of its own. In every round each runs once, one after the other, on the
same number of threads, and counts its CPU seconds. All end in the fp32 activation at the cut.
Peers whose packages the project does not depend on are installed into --cache on first use; one
that cannot be installed or run is listed under `peers` with the reason.

The last line is one JSON object. Exit codes: 0 measured, 2 wrong usage or missing input.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click

from benchmarks.real_inputs import REPOSITORY
from benchmarks.shapes import SHAPES, write_shape
from benchmarks.speed.contenders import CONTENDERS, Contender, choose, environment, install
from benchmarks.speed.crew import ContenderError, Member, start
from benchmarks.speed.graphs import PROFILES, megabytes, write_graphs
from benchmarks.speed.rounds import Row, describe, play, ratio
from benchmarks.speed.worker import BATCHES
from splitfrozen.errors import SplitFrozenError

CACHE = REPOSITORY / ".cache" / "speed-peers"
REFERENCE = "torch-eager"
_VERSIONS = ("torch", "transformers", "onnxruntime", "onnx", "numpy")


@click.command()
@click.option("--model-shape", type=click.Choice(list(SHAPES)), help="Random weights of a shape.")
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--cut", type=click.IntRange(1), default=4, show_default=True)
@click.option("--peers", default="all", show_default=True, help="all, none, or names with commas.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--quick", is_flag=True, help="Two rounds of 32 tokens, no peer to install.")
@click.option("--json", "as_json", is_flag=True, help="Print no table.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=CACHE)
def edge_speed(
    model_shape: str | None,
    model: Path | None,
    cut: int,
    peers: str,
    rounds: int,
    tokens: int,
    threads: int,
    quick: bool,
    as_json: bool,
    cache: Path,
) -> None:
    """Measure speed, memory, size and error of the device segment."""
    if (model is None) == (model_shape is None):
        raise click.UsageError("give either --model-shape or --model")
    try:
        chosen = choose(peers)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--peers") from None
    if quick:
        rounds, tokens = min(rounds, 2), min(tokens, 32)
        chosen = [contender for contender in chosen if contender.packages is None]
    with tempfile.TemporaryDirectory(prefix="splitfrozen-speed-") as scratch:
        directory = Path(scratch)
        source = model or write_shape(model_shape or "", directory / "model")
        others = {c.graph for c in chosen if c.graph is not None} - set(PROFILES)
        graphs = write_graphs(source, cut, directory / "graphs", sorted(others), _tell)
        sizes = {name: round(megabytes(graphs[name]), 1) for name in PROFILES}
        job = _Job(source, cut, graphs, threads, tokens, directory, cache)
        members, absent = job.gather(chosen)
        try:
            absent |= play(members, rounds, BATCHES, _tell)
            rows = describe(members, tokens, REFERENCE, directory)
            result = {
                "model": model_shape or str(model),
                "cut": cut,
                "threads": threads,
                "rounds": rounds,
                "quick": quick,
                **figures(members, rows),
                "bundle_mb": sizes,
                "peers": {row.name: "ran" for row in rows} | absent,
                "rows": [asdict(row) for row in rows],
                "machine": _machine(),
            }
        finally:
            for member in members:
                member.stop()
    if not as_json:
        click.echo(table(rows))
    click.echo(json.dumps(result))


class _Job:
    """What all contenders of one run share."""

    def __init__(
        self,
        model: Path,
        cut: int,
        graphs: dict[str, Path],
        threads: int,
        tokens: int,
        directory: Path,
        cache: Path,
    ) -> None:
        self._model, self._cut, self._graphs = model, cut, graphs
        self._threads, self._tokens = threads, tokens
        self._directory, self._cache = directory, cache

    def gather(self, chosen: Sequence[Contender]) -> tuple[list[Member], dict[str, str]]:
        """Start every contender; returns those that run and, for others, why they do not."""
        members, absent = [], {}
        for contender in chosen:
            began = time.monotonic()
            try:
                members.append(self._start(contender))
                _tell(f"{contender.name} is ready after {time.monotonic() - began:.0f} s")
            except (ContenderError, RuntimeError, OSError) as error:
                if contender.ours:
                    raise
                absent[contender.name] = str(error)
                _tell(f"{contender.name} cannot take part: {error}")
        return members, absent

    def _start(self, contender: Contender) -> Member:
        packages = None
        if contender.packages is not None:
            _tell(f"{contender.name}: packages of requirements-{contender.packages}.txt")
            packages = install(contender.packages, self._cache)
        graph = "" if contender.graph is None else str(self._graphs[contender.graph])
        arguments = [contender.runner, contender.name, str(self._model), str(self._cut), graph]
        arguments += [str(self._threads), str(self._tokens)]
        environ = environment(packages, self._threads)
        return start(contender.name, arguments, environ, self._directory)


def figures(members: Sequence[Member], rows: Sequence[Row]) -> dict[str, Any]:
    """The ratios that the targets name, for one example at a time; None where a peer is absent."""
    known = {member.name: member for member in members}
    int8 = known["int8"]

    def against(name: str) -> float | None:
        return round(ratio(known[name], int8, 1), 3) if name in known else None

    ours = {contender.name for contender in CONTENDERS if contender.ours}
    invariant = [row.name for row in rows if row.invariant and row.name not in ours]
    best = min(invariant, key=lambda name: ratio(known[name], int8, 1), default=None)
    return {
        "int8_vs_ort_fp32": against("ort-fp32"),
        "int8_vs_torch_eager": against("torch-eager"),
        "int8_vs_quantize_dynamic": against("ort-quantize-dynamic"),
        "int8_vs_best_invariant_peer": against(best) if best else None,
        "best_invariant_peer": best,
        "int8_batch_shift": next(row.batch_shift for row in rows if row.name == "int8"),
    }


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    shapes = list(rows[0].tokens_per_second)
    head = ["contender", *(f"tokens/s {s}" for s in shapes), *(f"CPU s/1000 {s}" for s in shapes)]
    head += ["private MB, peak", "at rest", "file MB", "relative error", "batch shift"]
    lines = [head, ["---"] * len(head)]
    for row in sorted(rows, key=lambda row: row.cpu_seconds_per_1000[shapes[0]]):
        error = "" if row.relative_error is None else f"{row.relative_error:.2g}"
        lines.append(
            [
                row.name,
                *(f"{row.tokens_per_second[s]:.0f}" for s in shapes),
                *(f"{row.cpu_seconds_per_1000[s]:.4f}" for s in shapes),
                f"{row.peak_private_mb:.0f}",
                f"{row.private_mb:.0f}",
                f"{row.file_mb:.1f}",
                error,
                f"{row.batch_shift:.2g}",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _machine() -> dict[str, Any]:
    names = {line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")}
    return {
        "cpu": ", ".join(sorted(names)) or platform.processor(),
        "cores": sum(line.startswith("processor") for line in _cpu_lines()),
        "python": platform.python_version(),
        **{name: version(name) for name in _VERSIONS},
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _tell(message: str) -> None:
    click.echo(message, err=True)


def main() -> None:
    """Run the command and leave with a documented exit code."""
    try:
        edge_speed.main(standalone_mode=False)
    except (SplitFrozenError, ContenderError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(2)


if __name__ == "__main__":
    main()
