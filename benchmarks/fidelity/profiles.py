"""Write the device graph of a model in every precision, and measure each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fidelity.gradients import Hidden, LoraJob, cosine
from benchmarks.fidelity.texts import GRADIENT, Texts
from splitfrozen.quantize import decode_hidden, encode_hidden
from splitfrozen_export.graph.finish import finish_graph
from splitfrozen_export.graph.trace import export_graph, save_graph
from splitfrozen_export.measure.closeness import measure_closeness
from splitfrozen_export.measure.loss import measure_loss, run_windows
from splitfrozen_export.measure.reference import run_torch
from splitfrozen_export.measure.verify import graph_in, open_session, run_graph
from splitfrozen_export.precision.calibrate import Calibration, calibrate
from splitfrozen_export.precision.census import count_products
from splitfrozen_export.precision.quantize import AUTO, PRECISIONS, Recipe, default_embedding
from splitfrozen_export.split import (
    ModelSource,
    load_device_segment,
    load_server_segment,
)
from splitfrozen_export.steps import ignore_parts


@dataclass(frozen=True)
class Row:
    """One precision of one model, against fp32 in torch on held-out text."""

    profile: str
    megabytes: float  # device.onnx and its weights, 10^6 bytes
    relative_error: float
    worst_token: float
    cosine_min: float
    gradient_cosine: float  # of the LoRA parameters above the cut
    wire_gradient_cosine: float  # the same with activations that went over the int8 wire
    loss_gap: dict[str, float]  # nats per token over the int8 wire, by text; {} for an encoder


class Bench:
    """One model, cut once, whose torch answers every precision is held against."""

    def __init__(self, source: ModelSource, cut: int, texts: Texts) -> None:
        """Load the segment and ask torch all that is needed."""
        self._source, self._cut, self._texts = source, cut, texts
        self._segment = load_device_segment(source, cut)
        self._products = count_products(self._segment)
        self._calibration = calibrate(self._segment, texts.calibration)
        self._hidden = [run_torch(self._segment, [ids]) for ids in texts.held_out]
        self._windows = {
            name: run_windows(self._segment, windows) for name, windows in texts.windows.items()
        }
        labels = texts.labels[:GRADIENT] if texts.labels else None
        self._job = LoraJob(source, cut, labels)
        self._gradient = self._gradient_of(self._hidden)

    def measure(self, directory: Path, *, quick: bool) -> Iterator[Row]:
        """Write each profile below `directory` and measure it."""
        for name, recipe in profiles(self._calibration, quick=quick):
            folder = directory / name.replace(" ", "-")
            folder.mkdir()
            # not a copy of one trace: segments are traced in seconds, graphs share their weights
            graph = export_graph(self._segment)
            finish_graph(graph, self._segment, recipe, wire="int8", products=self._products)
            save_graph(graph, folder)
            yield self._row(name, folder)

    def _row(self, name: str, folder: Path) -> Row:
        session = open_session(graph_in(folder))
        found = [run_graph(session, [ids])[0][0] for ids in self._texts.held_out]
        del session
        closeness = measure_closeness(np.concatenate(self._hidden), np.concatenate(found))
        coded = [decode_hidden("int8", *encode_hidden("int8", hidden)) for hidden in found]
        return Row(
            name,
            sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
            closeness.relative_error,
            closeness.worst_token,
            closeness.cosine_min,
            cosine(self._gradient, self._gradient_of(found)),
            cosine(self._gradient, self._gradient_of(coded)),
            self._gaps(folder),
        )

    def _gradient_of(self, activations: list[Hidden]) -> Any:
        texts = self._texts.held_out[:GRADIENT]
        return self._job.gradient(texts, activations[: len(texts)])

    def _gaps(self, folder: Path) -> dict[str, float]:
        if not self._windows:
            return {}
        server = load_server_segment(self._source, self._cut, "causal_lm")
        return {
            name: measure_loss(
                graph_in(folder),
                server,
                self._texts.windows[name],
                hidden,
                wire="int8",
                on_part=ignore_parts,
            ).wire_gap
            for name, hidden in self._windows.items()
        }


def profiles(calibration: Calibration, *, quick: bool) -> Iterator[tuple[str, Recipe]]:
    """Every precision, as it is and calibrated, and int8 with its other options.

    `quick`: only int8 has more than one row.
    """
    for precision in PRECISIONS:
        recipe = Recipe(precision, default_embedding(precision))
        yield precision, recipe
        if precision == "fp32" or (quick and precision != "int8"):
            continue
        yield f"{precision} calibrated", replace(recipe, calibration=calibration)
        if precision == "int8" and not quick:
            yield "int8 reduced range", replace(recipe, reduce_range=True)
            kept = replace(recipe, calibration=calibration, keep_fp=frozenset({AUTO}))
            yield "int8 outliers kept", kept
