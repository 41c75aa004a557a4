"""Tiny and real decoders as two graphs over one weights file, written once a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort
import pytest

from splitfrozen_export.graph.finish import finish_graph
from splitfrozen_export.graph.trace import export_graph, opset_of, save_graph
from splitfrozen_export.measure.verify import graph_in, open_session
from splitfrozen_export.past import cached_graph_in, export_cached_graph, save_beside
from splitfrozen_export.precision.quantize import Recipe, default_embedding
from splitfrozen_export.split import DeviceSegment, load_device_segment, resolve_model
from tests.export.conftest import cut_of


@dataclass(frozen=True)
class Pair:
    """A device segment and, for one precision each, a directory with both of its graphs."""

    segment: DeviceSegment
    directories: dict[str, Path]

    def prefill(self, precision: str) -> ort.InferenceSession:
        return open_session(graph_in(self.directories[precision]))

    def cached(self, precision: str) -> ort.InferenceSession:
        return open_session(cached_graph_in(self.directories[precision]))


def write_pair(
    model: Path,
    cut: int,
    directory: Path,
    precisions: tuple[str, ...] = ("fp32", "int8"),
    *,
    opset: int | None = None,
) -> Pair:
    """Trace both graphs of a streamed segment once and finish them in every precision."""
    segment = load_device_segment(resolve_model(model), cut, stream=True)
    prefill = export_graph(segment, opset=opset)
    cached = export_cached_graph(segment, opset=opset_of(prefill))
    directories = {}
    for precision in precisions:
        folder = directories[precision] = directory / precision
        folder.mkdir()
        recipe = Recipe(precision, default_embedding(precision))
        graphs = prefill.clone(), cached.clone()
        for graph in graphs:
            finish_graph(graph, segment, recipe, wire="int8")
        save_graph(graphs[0], folder)
        save_beside(graphs[1], folder)
    return Pair(segment, directories)


@pytest.fixture(scope="session")
def pair(
    tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Pair]:
    """Both graphs of a tiny decoder of a family, cut as `cut_of` says."""
    known: dict[str, Pair] = {}

    def write(family: str) -> Pair:
        if family not in known:
            directory = tmp_path_factory.mktemp(f"past-{family}")
            known[family] = write_pair(tiny_model(family), cut_of(family), directory)
        return known[family]

    return write


@pytest.fixture(scope="session")
def stories_pair(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Both graphs of the real small Llama, cut after 2 of its 5 blocks."""
    return write_pair(stories, 2, tmp_path_factory.mktemp("past-stories"))
