"""What a device sends, on four platforms: `python -m benchmarks.platforms [--json]`.

Exports real models at every precision, runs them on this machine, on emulated Cortex-A72 and A76
and in WebAssembly, and counts the coded wire values that differ from this machine's.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from benchmarks.emulation.everywhere import (
    OTHERS,
    PLATFORMS,
    X86_64,
    Tensors,
    run_on,
    token_inputs,
)
from benchmarks.emulation.kept import PlatformFailure, PlatformUnavailable
from benchmarks.real_inputs import data_root, minilm_directory
from splitfrozen.graph import ATTENTION_MASK, DEVICE_GRAPH, HIDDEN, HIDDEN_Q
from splitfrozen_export.graph.finish import finish_graph
from splitfrozen_export.graph.trace import export_graph, save_graph
from splitfrozen_export.measure.samples import SENTENCES
from splitfrozen_export.precision.quantize import PRECISIONS, Recipe, default_embedding
from splitfrozen_export.split import load_device_segment, resolve_model

THREADS = (1, 2, 4)
LEVELS = ("disabled", "basic", "extended", "all")
_REVIEWS = 24  # sentences of SST-2: more take minutes on an emulated board


@dataclass(frozen=True)
class Flips:
    """How one platform's activations differ from another's, over real tokens."""

    values: int  # coded values compared
    differ: float  # share of them that differ
    beyond_one: float  # share that differs by more than one step of the code
    largest: int  # steps
    relative_error: float  # of `hidden`


@dataclass(frozen=True)
class Subject:
    """A model to export and texts to run it on."""

    name: str
    directory: Path
    cut: int
    texts: tuple[str, ...]


def subjects() -> Iterator[Subject]:
    """The real models that can be had here: MiniLM, and the small Llama with the real data."""
    yield Subject("MiniLM cut 4", minilm_directory(), 4, SENTENCES)
    root = data_root()
    if root is not None:
        yield Subject("MiniLM on SST-2", minilm_directory(), 4, read_reviews(root / "data"))
        yield Subject("stories260K cut 2", root / "models" / "stories260K", 2, SENTENCES)


def read_reviews(data: Path, count: int = _REVIEWS) -> tuple[str, ...]:
    """The first sentences of the SST-2 development set under a data folder."""
    lines = (data / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    return tuple(line.split("\t")[0] for line in lines[1 : count + 1])


def write_graphs(subject: Subject, target: Path, precisions: Sequence[str]) -> dict[str, Path]:
    """Export the device graph at every precision: precision -> file."""
    segment = load_device_segment(resolve_model(subject.directory), subject.cut)
    traced = export_graph(segment)
    files = {}
    for precision in precisions:
        model = traced.clone()
        recipe = Recipe(precision, default_embedding(precision))
        finish_graph(model, segment, recipe, wire="int8")
        folder = target / precision
        folder.mkdir(parents=True)
        save_graph(model, folder)
        files[precision] = folder / DEVICE_GRAPH
    return files


def subject_inputs(subject: Subject) -> Tensors:
    """The texts as one padded batch of token ids."""
    tokenizer = Tokenizer.from_file(str(subject.directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return token_inputs([tokenizer.encode(text).ids for text in subject.texts])


def count_flips(reference: Tensors, found: Tensors, inputs: Tensors) -> Flips:
    """Compare the outputs of two runs on the same inputs."""
    real = inputs[ATTENTION_MASK].astype(bool)
    steps = np.abs(reference[HIDDEN_Q][real].astype(int) - found[HIDDEN_Q][real].astype(int))
    hidden = reference[HIDDEN][real].astype(np.float64)
    error = np.linalg.norm(hidden - found[HIDDEN][real]) / np.linalg.norm(hidden)
    return Flips(
        values=steps.size,
        differ=float((steps > 0).mean()),
        beyond_one=float((steps > 1).mean()),
        largest=int(steps.max()),
        relative_error=float(error),
    )


def measure_platforms(graph: Path, inputs: Tensors) -> dict[str, Flips | str]:
    """Every other platform against this machine; the reason instead where one cannot run it."""
    reference = run_on(X86_64, graph, inputs)
    found: dict[str, Flips | str] = {}
    for platform in OTHERS:
        try:
            found[platform] = count_flips(reference, run_on(platform, graph, inputs), inputs)
        except (PlatformUnavailable, PlatformFailure) as error:
            found[platform] = str(error)
    return found


def measure_settings(graph: Path, inputs: Tensors) -> dict[str, Flips]:
    """This machine with other numbers of threads and other graph optimizations."""
    reference = run_on(X86_64, graph, inputs)
    runs: dict[str, dict[str, Any]] = {f"{count} threads": {"threads": count} for count in THREADS}
    runs |= {f"optimization {level}": {"optimization": level} for level in LEVELS}
    return {
        name: count_flips(reference, run_on(X86_64, graph, inputs, **options), inputs)
        for name, options in runs.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.platforms")
    parser.add_argument("--precision", action="append", choices=PRECISIONS)
    parser.add_argument("--json", action="store_true", help="print the JSON object alone")
    options = parser.parse_args(arguments)
    precisions = options.precision or PRECISIONS
    result: dict[str, Any] = {"platforms": PLATFORMS, "models": {}}
    for subject in subjects():
        inputs = subject_inputs(subject)
        rows: dict[str, Any] = {}
        with tempfile.TemporaryDirectory(prefix="splitfrozen-platforms-") as scratch:
            for precision, graph in write_graphs(subject, Path(scratch), precisions).items():
                found: dict[str, Flips | str] = dict(measure_platforms(graph, inputs))
                if precision == "int8":
                    found |= measure_settings(graph, inputs)
                rows[precision] = {name: _as_json(flips) for name, flips in found.items()}
                if not options.json:
                    _print_rows(subject.name, precision, found)
        result["models"][subject.name] = rows
    print(json.dumps(result))


def _as_json(flips: Flips | str) -> dict[str, Any]:
    return {"failed": flips} if isinstance(flips, str) else asdict(flips)


def _print_rows(model: str, precision: str, found: dict[str, Flips | str]) -> None:
    for name, flips in found.items():
        start = f"{model:18} {precision:9} {name:22}"
        if isinstance(flips, str):
            print(start, flips.splitlines()[0], flush=True)
        else:
            print(
                f"{start} differ {flips.differ:8.4%}  by more than one step {flips.beyond_one:8.4%}"
                f"  at most {flips.largest:2}  hidden {flips.relative_error:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
