"""The graphs that contenders read, written once: this project's, and what is made from them."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from splitfrozen.graph import ATTENTION_MASK, DEVICE_GRAPH, HIDDEN, INPUT_IDS

OPSET_OF_OTHERS = 20  # converters of other runtimes do not know 23 yet
# Profile -> precision and embedding; what "bundle_mb" reports.
PROFILES = {
    "fp32": ("fp32", "fp32"),
    "int8": ("int8", "int8"),
    "int8-hq": ("int8-hq", "int8"),
    "int4": ("int4", "int4"),
    "int4-all": ("int4-all", "int4"),
}


def write_graphs(
    model: Path, cut: int, directory: Path, others: Iterable[str], tell: Callable[[str], None]
) -> dict[str, Path]:
    """Trace the segment and write a graph for each profile and for each of `others`.

    They end in `hidden`, without the wire codec: the same work as every peer's. `others` may
    name `fp32-torch-onnx` (torch's own exporter and none of this project's passes),
    `fp32-opset20` and `quantize-dynamic`. Returns name -> device.onnx.
    """
    from splitfrozen_export.graph.finish import finish_graph
    from splitfrozen_export.graph.trace import export_graph, save_graph
    from splitfrozen_export.precision.census import count_products
    from splitfrozen_export.precision.quantize import Recipe
    from splitfrozen_export.split import load_device_segment, resolve_model

    tell("tracing the segment")
    segment = load_device_segment(resolve_model(str(model)), cut, stream=True)
    products = count_products(segment)
    traced = export_graph(segment)
    found = {}
    for name, (precision, embedding) in PROFILES.items():
        tell(f"writing {name}")
        graph = traced.clone()
        recipe = Recipe(precision, embedding)
        finish_graph(graph, segment, recipe, wire="fp32", products=products)
        found[name] = directory / name / DEVICE_GRAPH
        found[name].parent.mkdir(parents=True)
        save_graph(graph, found[name].parent)
    for name in others:
        tell(f"writing {name}")
        found[name] = directory / name / DEVICE_GRAPH
        found[name].parent.mkdir(parents=True)
        if name == "fp32-torch-onnx":
            _export_with_torch(load_device_segment(resolve_model(str(model)), cut), found[name])
            continue
        save_graph(export_graph(segment, opset=OPSET_OF_OTHERS), found[name].parent)
        if name == "quantize-dynamic":
            _quantize_dynamic(found[name])
    return found


def _export_with_torch(segment: nn.Module, graph: Path) -> None:
    """What `torch.onnx.export` writes as it comes, both axes free."""
    ids = torch.ones((2, 11), dtype=torch.int64)  # no free axis of an example may be 0 or 1
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with _silent(), torch.no_grad():
        torch.onnx.export(
            segment.eval(),
            (ids, torch.ones_like(ids)),
            graph,
            dynamo=True,
            external_data=True,
            input_names=[INPUT_IDS, ATTENTION_MASK],
            output_names=[HIDDEN],
            dynamic_shapes=(axes, axes),
            verbose=False,
        )


def megabytes(graph: Path) -> float:
    """10^6 bytes of a graph and its weights."""
    return sum(path.stat().st_size for path in graph.parent.iterdir()) / 1e6


def _quantize_dynamic(graph: Path) -> None:
    """ONNX Runtime's own dynamic quantization, in place, in its best setting: signed, per channel.

    Of the graph of opset 20: it turns the Attention of opset 23 into a node that cannot be loaded.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=graph.parent.parent) as scratch:
        source = Path(scratch) / "source"
        graph.parent.rename(source)
        graph.parent.mkdir()
        with _silent():
            quantize_dynamic(
                source / graph.name,
                graph,
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=True,
            )


@contextmanager
def _silent() -> Iterator[None]:
    """Without the advice of exporters and quantizers that changes nothing here."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
