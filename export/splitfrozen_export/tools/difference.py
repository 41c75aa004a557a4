"""What differs between two bundles: fields, files, operators, tensors, numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from splitfrozen.bundle import Bundle, read_bundle
from splitfrozen_export.tools.opened import Graph, Tensor, open_graph
from splitfrozen_export.words import closeness_words

_SHOWN = 12  # changes of one kind that a person is shown
_WIDEST = 60  # characters of a value in such a change
Change = tuple[Any, Any]  # first, second; None: not there


@dataclass
class Difference:
    """Everything that is not the same in two bundles, whose hashes were checked."""

    first: str  # bundle ids
    second: str
    fields: dict[str, Change] = field(default_factory=dict)  # of the manifest, without files
    files: dict[str, Change] = field(default_factory=dict)  # name -> sizes, or hashes
    ops: dict[str, Change] = field(default_factory=dict)  # "device.onnx Add" -> counts
    nodes: dict[str, Change] = field(default_factory=dict)  # "device.onnx" -> digests of wiring
    tensors: dict[str, Change] = field(default_factory=dict)  # "device.onnx NAME" -> forms
    outputs: dict[str, Any] | None = None  # closeness of `hidden`, or why it was not compared

    @property
    def same(self) -> bool:
        """Whether the bundles are one bundle."""
        return self.first == self.second


def compare_bundles(first: Path, second: Path, *, run: bool) -> Difference:
    """Compare two verified bundles; with `run` also their outputs on the built-in sentences.

    Raises ManifestError for a directory that is no sound bundle.
    """
    a, b = read_bundle(first), read_bundle(second)
    found = Difference(a.id, b.id)
    if found.same:
        return found
    found.fields = _changes(_fields(a), _fields(b))
    sizes = [{n: (e.size, e.sha256) for n, e in bundle.manifest.files.items()} for bundle in (a, b)]
    changed = _changes(*sizes)
    found.files = {name: _sizes(x, y) for name, (x, y) in changed.items()}
    for name in sorted(n for n in sizes[0].keys() | sizes[1].keys() if n.endswith(".onnx")):
        _compare_graphs(found, name, *(_graph(bundle, name) for bundle in (a, b)))
    if run:
        found.outputs = _compare_outputs(a, b)
    return found


def diff_json(found: Difference) -> dict[str, Any]:
    """For a script; each change is [first, second]."""
    return {"same": found.same, **asdict(found)}


def diff_lines(found: Difference) -> list[str]:
    """For a person."""
    if found.same:
        return [f"The same bundle: {found.first}"]
    lines = [f"- {found.first}", f"+ {found.second}", *_output_lines(found.outputs)]
    for title, changes in (
        ("Manifest", found.fields),
        ("Files (bytes)", found.files),
        ("Operators", found.ops),
        ("Wiring", found.nodes),
        ("Tensors", found.tensors),
    ):
        lines.append(f"{title}: {len(changes) or 'no'} difference{'s' * (len(changes) != 1)}")
        shown = list(changes.items())[:_SHOWN]
        lines += [f"  {name}: {_text(a)} -> {_text(b)}" for name, (a, b) in shown]
        if len(changes) > _SHOWN:
            lines.append(f"  and {len(changes) - _SHOWN} more (--format json has all)")
    return lines


def _output_lines(outputs: Mapping[str, Any] | None) -> list[str]:
    """What matters most: whether the two compute the same."""
    if outputs is None:
        return []
    if "not_compared" in outputs:
        return [f"Outputs: not compared, {outputs['not_compared']}"]
    if outputs["relative_error"] == 0:
        return [f"Outputs: the same, to the last bit ({outputs['tokens']:,} tokens)"]
    return [f"Outputs: the second's are {closeness_words(outputs, 'those of the first')}"]


def _fields(bundle: Bundle) -> dict[str, Any]:
    """The manifest as `preprocess.max_length: 512`, without the files."""
    document = asdict(bundle.manifest)
    del document["files"]
    return dict(_flat("", document))


def _flat(path: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(path.removesuffix("."), value)]
    return [leaf for name, item in value.items() for leaf in _flat(f"{path}{name}.", item)]


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Change]:
    return {
        name: (a.get(name), b.get(name))
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    }


def _graph(bundle: Bundle, name: str) -> Graph | None:
    return open_graph(bundle.path(name)) if name in bundle.manifest.files else None


def _compare_graphs(found: Difference, name: str, a: Graph | None, b: Graph | None) -> None:
    ops = _changes(a.ops if a else {}, b.ops if b else {})
    found.ops |= {f"{name} {op}": change for op, change in ops.items()}
    if a and b and _wiring(a) != _wiring(b):
        found.nodes[name] = (_wiring(a), _wiring(b))
    tensors = _changes(_contents(a), _contents(b))
    found.tensors |= {f"{name} {tensor}": change for tensor, change in tensors.items()}


def _sizes(a: tuple[int, str] | None, b: tuple[int, str] | None) -> Change:
    """The sizes of a file; where they are equal, the starts of its hashes."""
    if a and b and a[0] == b[0]:
        return a[1][:8], b[1][:8]
    return a and a[0], b and b[0]


def _wiring(graph: Graph) -> str:
    """Digest of inputs, outputs and nodes in their order, with attributes and what they connect."""
    body = graph.model.graph
    parts = [*body.input, *body.output, *body.node]
    listed = [item.SerializeToString(deterministic=True).hex() for item in parts]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:8]


def _contents(graph: Graph | None) -> dict[str, str]:
    """Form and digest of every tensor."""
    if graph is None:
        return {}
    inline = {item.name: item for item in graph.model.graph.initializer}
    found = {}
    for name, tensor in graph.tensors.items():
        content = _bytes(graph.path.parent, tensor) or inline[name].SerializeToString()
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        found[name] = f"{tensor.dtype} {shape} {hashlib.sha256(content).hexdigest()[:8]}"
    return found


def _bytes(directory: Path, tensor: Tensor) -> bytes:
    if tensor.file is None:
        return b""
    with (directory / tensor.file).open("rb") as stream:
        stream.seek(tensor.offset)
        return stream.read(tensor.size)


def _compare_outputs(a: Bundle, b: Bundle) -> dict[str, Any]:
    """Closeness of the second's `hidden` to the first's, on the first's token ids."""
    one, two = a.manifest, b.manifest
    for name in ("hidden_size", "cut", "vocab_size"):
        if getattr(one, name) != getattr(two, name):
            return {"not_compared": f"{name} differs"}
    from splitfrozen_export.tools.numbers import output_closeness

    return output_closeness(a, b)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…"
