"""Device graphs of tiny and real models, traced once a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort
import pytest

from splitfrozen_export.graph.finish import finish_graph
from splitfrozen_export.graph.trace import export_graph, save_graph
from splitfrozen_export.measure.verify import graph_in, open_session
from splitfrozen_export.precision.quantize import Coverage, Recipe, default_embedding
from splitfrozen_export.split import DeviceSegment, load_device_segment, resolve_model


@dataclass(eq=False)
class Traced:
    """One device segment and its graphs with the int8 wire, one for each precision."""

    segment: DeviceSegment
    fp32: ir.Model  # as traced; never edited
    directory: Path
    graphs: dict[str, Path] = field(default_factory=dict)  # precision -> device.onnx
    coverage: dict[str, Coverage] = field(default_factory=dict)

    def session(self, precision: str) -> ort.InferenceSession:
        return open_session(self.graph(precision))

    def graph(self, precision: str) -> Path:
        """The graph of a precision with its own embedding, written when first asked for."""
        return self.write(Recipe(precision, default_embedding(precision)), precision)

    def write(self, recipe: Recipe, name: str) -> Path:
        """The graph of any recipe, written under `name` when first asked for."""
        if name not in self.graphs:
            model = self.fp32.clone()
            self.coverage[name] = finish_graph(model, self.segment, recipe, wire="int8")
            folder = self.directory / name
            folder.mkdir(parents=True)
            save_graph(model, folder)
            self.graphs[name] = graph_in(folder)
        return self.graphs[name]


def trace(model: Path, cut: int, directory: Path, *, opset: int | None = None) -> Traced:
    """Trace a model's device segment once and write it in fp32 and int8."""
    segment = load_device_segment(resolve_model(model), cut)
    traced = Traced(segment, export_graph(segment, opset=opset), directory)
    for precision in ("fp32", "int8"):
        traced.graph(precision)
    return traced


# Their first two blocks differ: another window, another kind of positions.
ALTERNATING = ("gemma2", "gemma3", "modernbert", "smollm3")


def cut_of(family: str) -> int:
    """Two blocks where they differ, and for one plain family of each kind; else one.

    Tracing takes seconds a block, and a second block of the same kind tells nothing new.
    """
    return 2 if family in (*ALTERNATING, "llama", "bert") else 1


@pytest.fixture(scope="session")
def traced(
    tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Traced]:
    """The graphs of a tiny model of a family, cut as `cut_of` says."""
    known: dict[str, Traced] = {}

    def graphs(family: str) -> Traced:
        if family not in known:
            directory = tmp_path_factory.mktemp(f"graphs-{family}")
            known[family] = trace(tiny_model(family), cut_of(family), directory)
        return known[family]

    return graphs


@pytest.fixture(scope="session")
def stories(shared_models: Path) -> Path:
    """The real small Llama, as a model directory."""
    return shared_models / "stories260K"


@pytest.fixture(scope="session")
def traced_stories(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    return trace(stories, 2, tmp_path_factory.mktemp("graphs-stories"))


@pytest.fixture(scope="session")
def traced_minilm(
    minilm: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Traced]:
    """The real MiniLM, cut after some of its 6 blocks."""

    @cache
    def graphs(cut: int) -> Traced:
        return trace(minilm, cut, tmp_path_factory.mktemp(f"graphs-minilm-{cut}"))

    return graphs
