"""The plain device graph against rewrites of it and ONNX Runtime's fused operators.

    python -m benchmarks.graph_variants --model-shape gpt2 --cut 4

All variants run in this process, interleaved, each on one thread; times are CPU time of the
process for one run of 1 x 128 tokens. A variant that cannot be built or loaded is listed with the
reason. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

if __package__ in (None, ""):  # run as a file: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.shapes import SHAPES, write_shape
from benchmarks.speed.fused import PASSES
from benchmarks.speed.worker import make_ids
from splitfrozen.graph import ATTENTION_MASK, HIDDEN, INPUT_IDS
from splitfrozen_export.graph.fuse import fuse_graph
from splitfrozen_export.graph.steady import steady_graph

_LEVELS = {
    "no optimisation": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic optimisation": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended optimisation": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
_EVERYTHING = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


@dataclass
class Variant:
    """One graph of one precision, and what was measured of it."""

    name: str
    precision: str
    nodes: int
    changed: int
    least_ms: float = 0.0
    median_ms: float = 0.0
    gain: float = 0.0  # times as fast as the plain graph: median over rounds
    error: float = 0.0  # relative, to the plain graph of the same precision
    batch_shift: float = 0.0  # largest difference of a row alone and beside others


@click.command()
@click.option("--model-shape", type=click.Choice(list(SHAPES)))
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--cut", type=click.IntRange(1), default=4, show_default=True)
@click.option("--precisions", default="fp32,int8", show_default=True)
@click.option("--variants", help="Only these beside the plain graph, with commas.")
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True)
@click.option("--tokens", type=click.IntRange(1), default=128, show_default=True)
def graph_variants(
    model_shape: str | None,
    model: Path | None,
    cut: int,
    precisions: str,
    variants: str | None,
    rounds: int,
    tokens: int,
) -> None:
    """Measure every variant of the device graph."""
    if (model is None) == (model_shape is None):
        raise click.UsageError("give either --model-shape or --model")
    with tempfile.TemporaryDirectory(prefix="splitfrozen-variants-") as scratch:
        directory = Path(scratch)
        source = model or write_shape(model_shape or "", directory / "model")
        only = None if variants is None else {"plain", *variants.split(",")}
        bench = _Bench(source, cut, directory, tokens, only)
        found: list[Variant] = []
        for precision in precisions.split(","):
            bench.build(precision)
            found += bench.measure(rounds)
    click.echo(_table(found))
    result = {
        "model": model_shape or str(model),
        "cut": cut,
        "variants": [asdict(variant) for variant in found],
        "absent": bench.absent,
    }
    click.echo(json.dumps(result))


class _Bench:
    """Builds the variants of one segment, one precision at a time, and times them."""

    def __init__(
        self, model: Path, cut: int, directory: Path, tokens: int, only: set[str] | None
    ) -> None:
        from splitfrozen_export.graph.trace import export_graph
        from splitfrozen_export.split import load_device_segment, resolve_model

        self.absent: dict[str, str] = {}
        self._only = only
        self._directory = directory
        self._segment = load_device_segment(resolve_model(str(model)), cut, stream=True)
        self._plain = export_graph(self._segment)
        self._old = export_graph(self._segment, opset=20)
        fields = json.loads((model / "config.json").read_text())
        self._ids = make_ids(8, tokens, fields["vocab_size"])
        self._running: list[tuple[Variant, onnxruntime.InferenceSession]] = []

    def build(self, precision: str) -> None:
        self._running = []
        plain = self._add("plain", precision, self._plain, lambda _: 0)
        for name, level in _LEVELS.items():
            if self._only is None or name in self._only:
                self._open(Variant(name, precision, self._nodes(plain), 0), plain, level)
        self._add("opset 20", precision, self._old, lambda _: 0)
        for name, rewrite in PASSES.items():
            self._add(name, precision, self._plain, rewrite)
        fused = PASSES["fused residual norms"]
        self._add(
            "unsplit heads, fused norms", precision, self._plain, lambda m: fuse_graph(m) + fused(m)
        )
        if precision == "int8":
            self._add("what is shipped", precision, self._plain, fuse_graph, steady_graph)

    def measure(self, rounds: int) -> list[Variant]:
        samples: list[list[float]] = [[] for _ in self._running]
        for number in range(rounds + 1):  # the first one warms up
            for index in range(len(self._running)):
                place = (index + number) % len(self._running)
                began = time.process_time()
                self._run(place, 1)
                if number:
                    samples[place].append(time.process_time() - began)
        expected = self._run(0, 8)
        for place, (variant, _) in enumerate(self._running):
            whole, alone = self._run(place, 8), self._run(place, 1)
            variant.least_ms = min(samples[place]) * 1000
            variant.median_ms = median(samples[place]) * 1000
            pairs = zip(samples[0], samples[place], strict=True)
            variant.gain = median(plain / mine for plain, mine in pairs)
            variant.error = float(np.linalg.norm(whole - expected) / np.linalg.norm(expected))
            variant.batch_shift = float(np.abs(whole[:1] - alone).max())
        return [variant for variant, _ in self._running]

    def _add(
        self,
        name: str,
        precision: str,
        traced: Any,
        rewrite: Callable[[Any], int],
        finish: Callable[[Any], int] = lambda _: 0,
    ) -> Path:
        """Build one variant: `rewrite` before the quantization, `finish` behind it."""
        from splitfrozen_export.graph.trace import save_graph
        from splitfrozen_export.precision.census import count_products
        from splitfrozen_export.precision.quantize import Recipe, apply_precision

        path = self._directory / precision / name.replace(" ", "-") / "device.onnx"
        if self._only is not None and name not in self._only:
            return path
        path.parent.mkdir(parents=True)
        try:
            graph = traced.clone()
            changed = rewrite(graph)
            if rewrite in PASSES.values() and not changed:
                raise ValueError("the graph has no place for it")
            recipe = Recipe(precision, "fp32" if precision == "fp32" else "int8")
            products = 0 if precision == "fp32" else count_products(self._segment)
            apply_precision(graph, recipe, products=products)
            changed += finish(graph)
            save_graph(graph, path.parent)
            variant = Variant(name, precision, self._nodes(path), changed)
            self._open(variant, path, _EVERYTHING)
        except Exception as error:  # whatever a rewrite or the runtime says, it is a finding
            self.absent[f"{precision}: {name}"] = str(error).splitlines()[0][:300]
        return path

    def _open(self, variant: Variant, path: Path, level: Any) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = level
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._running.append((variant, session))

    def _run(self, place: int, batch: int) -> NDArray[np.float32]:
        ids = self._ids[:batch]
        feeds = {INPUT_IDS: ids, ATTENTION_MASK: np.ones_like(ids)}
        found: NDArray[np.float32] = self._running[place][1].run([HIDDEN], feeds)[0]
        return found

    @staticmethod
    def _nodes(path: Path) -> int:
        import onnx

        return len(onnx.load(path, load_external_data=False).graph.node)


def _table(variants: list[Variant]) -> str:
    lines = [
        "| precision | variant | nodes | ms, least | ms, median | gain | error | batch shift |"
    ]
    lines.append("|" + "---|" * 8)
    for v in variants:
        cells = [v.precision, v.name, str(v.nodes), f"{v.least_ms:.2f}", f"{v.median_ms:.2f}"]
        cells += [f"{v.gain:.3f}", f"{v.error:.2g}", f"{v.batch_shift:.2g}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    graph_variants()
