"""Is a bundle's directory whole, and are its graphs what the manifest says? Runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from splitfrozen.bundle import CHECKSUM_NAME, verify_file
from splitfrozen.errors import ManifestError
from splitfrozen.graph import (
    ATTENTION_MASK,
    DEVICE_GRAPH,
    DEVICE_WITH_PAST,
    HIDDEN,
    HIDDEN_Q,
    INPUT_IDS,
    SCALE,
    TOKENIZER,
    past_names,
    present_names,
)
from splitfrozen.manifest import MANIFEST_NAME, Manifest
from splitfrozen.signature import SIGNATURE_NAME
from splitfrozen_export.tools.opened import Graph, open_graph

_INPUTS = {INPUT_IDS: ("int64", 2), ATTENTION_MASK: ("int64", 2)}
_HIDDEN = {HIDDEN: ("float", 3)}
_CACHE = ("float", 4)
_CODED = {HIDDEN_Q: ("int8", 3), SCALE: ("float16", 3)}


def damaged_files(directory: Path, manifest: Manifest) -> Iterator[str]:
    """What is wrong with each file that the manifest names."""
    for name, entry in manifest.files.items():
        try:
            verify_file(directory / name, entry)
        except (ManifestError, OSError) as error:
            yield str(error)
    for needed in (DEVICE_GRAPH, TOKENIZER):
        if needed not in manifest.files:
            yield f"the manifest names no {needed}"


def foreign_files(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Whatever lies in the directory and is no part of the bundle."""
    own = {*manifest.files, MANIFEST_NAME, CHECKSUM_NAME, SIGNATURE_NAME}
    for path in sorted(directory.iterdir()):
        if path.name not in own:
            kind = "directory" if path.is_dir() else "file"
            yield f"{path} is a {kind} that the manifest does not name: remove it"


def graph_faults(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Where the graphs and the manifest disagree; for files whose hashes are right."""
    for name in sorted(manifest.files):
        if not name.endswith(".onnx"):
            continue
        if name not in (DEVICE_GRAPH, DEVICE_WITH_PAST):
            yield f"{name} is no graph that a device knows"
            continue
        try:
            graph = open_graph(directory / name)
        except ManifestError as error:
            yield str(error)
            continue
        yield from _faults(name, graph, manifest)
        yield from _stray_weights(name, graph, manifest)


def _faults(name: str, graph: Graph, manifest: Manifest) -> Iterator[str]:
    if graph.opset != manifest.opset:
        yield f"{name} has opset {graph.opset}, the manifest says {manifest.opset}"
    inputs = dict(_INPUTS)
    outputs = _HIDDEN | (_CODED if manifest.wire == "int8" else {})
    if name == DEVICE_WITH_PAST:
        inputs |= dict.fromkeys(past_names(manifest.cut), _CACHE)
        outputs |= dict.fromkeys(present_names(manifest.cut), _CACHE)
    for kind, found, needed in (
        ("input", graph.inputs(), inputs),
        ("output", graph.outputs(), outputs),
    ):
        for item, form in needed.items():
            if found.get(item) != form:
                yield f"{name} has the {kind} {item} as {found.get(item)}, not as {form}"
        if more := sorted(found.keys() - needed.keys()):
            yield f"{name} has {kind}s that no device knows: {', '.join(more)}"


def _stray_weights(name: str, graph: Graph, manifest: Manifest) -> Iterator[str]:
    """External tensors outside the bundle's own files, or beyond the end of one."""
    for tensor in graph.tensors.values():
        if tensor.file is None:
            continue
        entry = manifest.files.get(tensor.file)
        if entry is None:
            yield f"{name}: {tensor.name} is in {tensor.file!r}, which is no file of the bundle"
        elif tensor.offset < 0 or tensor.offset + tensor.size > entry.size:
            yield (
                f"{name}: {tensor.name} ends at byte {tensor.offset + tensor.size} of "
                f"{tensor.file}, which has {entry.size}"
            )
