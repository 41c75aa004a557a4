"""What a bundle is, as one object and as lines for a person. Reads the manifest and the graphs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitfrozen.errors import ManifestError
from splitfrozen.graph import DEVICE_GRAPH, DEVICE_WITH_PAST
from splitfrozen.manifest import MANIFEST_NAME, Manifest, bundle_id, parse_manifest
from splitfrozen.quantize import scale_width
from splitfrozen_export.tools.memory import Estimate, estimate_memory
from splitfrozen_export.tools.opened import Graph, open_graph
from splitfrozen_export.words import closeness_words, megabytes, number

SHAPES = ((1, 128), (8, 128))  # [batch, seq] that estimates and timings are given for


@dataclass(frozen=True)
class Overview:
    """A bundle whose hashes nobody has checked."""

    directory: Path
    id: str
    manifest: Manifest
    graphs: dict[str, Graph]  # by file name
    memory: Estimate  # of device.onnx


def read_overview(directory: Path) -> Overview:
    """Look into a bundle. Raises ManifestError for a directory that is none."""
    raw = read_manifest(directory)
    manifest = parse_manifest(raw)
    names = [name for name in sorted(manifest.files) if name.endswith(".onnx")]
    if DEVICE_GRAPH not in names:
        raise ManifestError("missing_file", f"the bundle {directory} names no {DEVICE_GRAPH}")
    graphs = {name: open_graph(directory / name) for name in names}
    memory = estimate_memory(graphs[DEVICE_GRAPH], SHAPES)
    return Overview(directory, bundle_id(raw), manifest, graphs, memory)


def read_manifest(directory: Path) -> bytes:
    """The manifest's bytes. Raises ManifestError `missing_file`."""
    try:
        return (directory / MANIFEST_NAME).read_bytes()
    except OSError:
        raise ManifestError(
            "missing_file", f"{directory} is no bundle: it has no {MANIFEST_NAME}"
        ) from None


def wire_bytes(codec: str, hidden_size: int) -> int:
    """Bytes of one token's activations as they are uploaded, before zstd (SPEC 2.4)."""
    if codec == "int8":
        return hidden_size + 2 * scale_width(hidden_size)
    return hidden_size * {"bf16": 2, "fp32": 4}[codec]


def overview_json(found: Overview) -> dict[str, Any]:
    """Everything, for a script. Sizes are bytes."""
    manifest, graph = found.manifest, found.graphs[DEVICE_GRAPH]
    return {
        "bundle": found.id,
        "directory": str(found.directory),
        "base_model": manifest.base_model.id,
        "revision": manifest.base_model.revision,
        "family": manifest.family,
        "architecture": manifest.architecture,
        "cut": manifest.cut,
        "num_layers": manifest.num_layers,
        "hidden_size": manifest.hidden_size,
        "vocab_size": manifest.vocab_size,
        "precision": manifest.precision,
        "wire": manifest.wire,
        "opset": manifest.opset,
        "prefix_digest": manifest.prefix_digest,
        "preprocess": {
            "max_length": manifest.preprocess.max_length,
            "truncation": manifest.preprocess.truncation,
            "prefix_ids": list(manifest.preprocess.prefix_ids),
            "eos_token_id": manifest.preprocess.eos_token_id,
            "pad_token_id": manifest.preprocess.pad_token_id,
            "has_chat_template": manifest.preprocess.chat_template is not None,
        },
        "files": {name: entry.size for name, entry in sorted(manifest.files.items())},
        "size": sum(entry.size for entry in manifest.files.values()),
        "graphs": {name: _graph_json(item) for name, item in found.graphs.items()},
        "parameters": graph.parameters(),
        "memory": {
            "runtime": found.memory.runtime,
            "weights_private": found.memory.private,
            "weights_file_backed": found.memory.file_backed,
            "activations": dict(found.memory.activations),
            "peak": {shape: found.memory.peak(shape) for shape in found.memory.activations},
        },
        "cache_bytes_per_token": _cache_bytes(found),
        "wire_bytes_per_token": {
            codec: wire_bytes(codec, manifest.hidden_size) for codec in manifest.wire_codecs
        },
        "tools": dict(manifest.tools),
        "report": dict(manifest.report),
    }


def _cache_bytes(found: Overview) -> int | None:
    """What generation keeps on the device for each token; None for a bundle that cannot."""
    graph = found.graphs.get(DEVICE_WITH_PAST)
    return None if graph is None else graph.cache_bytes()


def _graph_json(graph: Graph) -> dict[str, Any]:
    return {
        "nodes": len(graph.model.graph.node),
        "ops": graph.ops,
        "products": {name: graph.count("product", bits) for name, bits in _WIDTHS.items()},
        "tables": {name: graph.count("table", bits) for name, bits in _WIDTHS.items()},
    }


_WIDTHS = {"float": (16, 32, 64), "int8": (8,), "int4": (4,)}


def overview_lines(found: Overview) -> list[str]:
    """The same for a person."""
    manifest, memory = found.manifest, found.memory
    rules = manifest.preprocess
    sizes = [(name, entry.size) for name, entry in sorted(manifest.files.items())]
    template = ", chat template" if rules.chat_template is not None else ""
    lines = [
        f"{manifest.base_model.id} ({manifest.family} {manifest.architecture}), blocks "
        f"0..{manifest.cut - 1} of {manifest.num_layers}, precision {manifest.precision}, wire "
        f"{manifest.wire}, opset {manifest.opset}",
        f"Id           {found.id}",
        f"Weights      {found.graphs[DEVICE_GRAPH].parameters():,} in matrices and tables; prefix "
        f"digest {manifest.prefix_digest[:16]}…",
        f"Files        {megabytes(sum(size for _, size in sizes))} together",
        *(f"             {name:22}  {megabytes(size)}" for name, size in sizes),
        f"Text         at most {rules.max_length} tokens{template}",
    ]
    for name, graph in found.graphs.items():
        lines += _graph_lines(name, graph)
    lines += _memory_lines(memory)
    if (cache := _cache_bytes(found)) is not None:
        lines.append(
            f"             generation keeps {cache:,} bytes more for each token of its text"
        )
    width = manifest.hidden_size
    coded = ", ".join(f"{c} {wire_bytes(c, width):,}" for c in manifest.wire_codecs)
    lines.append(f"Wire         bytes per token before zstd: {coded}")
    lines += _report_lines(manifest)
    return [*lines, "Checked      nothing here: splitfrozen-bundle verify reads every byte"]


def _graph_lines(name: str, graph: Graph) -> list[str]:
    counted = []
    for kind in ("product", "table"):
        parts = [(graph.count(kind, bits), width) for width, bits in _WIDTHS.items()]
        named = ", ".join(f"{count} {width}" for count, width in parts if count)
        counted.append(f"{kind}s: {named or 'none'}")
    ops = ", ".join(f"{op} {count}" for op, count in list(graph.ops.items())[:12])
    more = len(graph.ops) - 12
    return [
        f"Graph        {name}: {len(graph.model.graph.node)} nodes; {'; '.join(counted)}",
        f"             {ops}{f', {more} more kinds' if more > 0 else ''}",
    ]


def _memory_lines(memory: Estimate) -> list[str]:
    shapes = ", ".join(f"{megabytes(size)} at {name}" for name, size in memory.activations.items())
    peaks = ", ".join(f"{megabytes(memory.peak(name))} at {name}" for name in memory.activations)
    return [
        f"Memory       about {peaks}, estimated from the graph:",
        f"             runtime {megabytes(memory.runtime)}, packed weights (private) "
        f"{megabytes(memory.private)},",
        f"             tables (file-backed, touched rows only) at most "
        f"{megabytes(memory.file_backed)}, activations {shapes}",
    ]


def _report_lines(manifest: Manifest) -> list[str]:
    """What the exporter measured, as far as this version knows the words for it."""
    report = manifest.report
    lines = []
    if report.get("relative_error") is not None:
        off = closeness_words(
            {name: report.get(name) for name in ("relative_error", "worst_token", "cosine_min")},
            "the fp32 model",
        )
        lines.append(f"Accuracy     activations at the cut are {off}")
    if (changed := report.get("neighbour_difference")) is not None:
        bits = "not at all" if changed == 0 else f"by up to {number(changed)}"
        lines.append(f"Stability    batch neighbours and padding change an activation {bits}")
    if (twin := report.get("twin_difference")) is not None:
        real = report.get("real_difference")
        weights = "" if real is None else f", {real} on the weights"
        lines.append(
            "Proof        device + server = whole model: difference "
            f"{twin} on a random model of the same shape{weights}"
        )
    return lines
