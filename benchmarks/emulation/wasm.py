"""ONNX Runtime as WebAssembly, as a browser runs it, in Node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.emulation.commands import fetch, need
from benchmarks.emulation.commands import run as run_command
from benchmarks.emulation.kept import PlatformUnavailable, keep

VERSION = "1.30.0"  # of onnxruntime-web; the newest
_PROGRAM = Path(__file__).with_name("run_graph.mjs")
_NODE = "install Node 20 or newer (Debian: nodejs and npm)"
_OLDEST_NODE = 20


def prepare() -> Path:
    """The folder with onnxruntime-web, fetched when missing. Raises PlatformUnavailable."""
    _node()
    return keep(f"onnxruntime-web-{VERSION}", _install)


def run_file(
    graph: Path,
    inputs: Path,
    outputs: Path,
    options: Mapping[str, Any] | None = None,
    *,
    seconds: float | None = None,
) -> None:
    """Run a graph on the tensors of one safetensors file and write another.

    `options` are session options of onnxruntime-web. Raises PlatformUnavailable without Node or
    network, and PlatformFailure when the graph does not load or run.
    """
    library = prepare() / "node_modules" / "onnxruntime-web"
    run_command(
        [_node(), _PROGRAM, library, graph, inputs, outputs, json.dumps(dict(options or {}))],
        where="onnxruntime-web",
        seconds=seconds,
    )


def _node() -> str:
    node = need("node", _NODE)
    version = fetch([node, "--version"], "the version of Node").strip()
    if int(version.lstrip("v").split(".")[0]) < _OLDEST_NODE:
        raise PlatformUnavailable(f"Node {version} is too old: {_NODE}")
    return node


def _install(folder: Path) -> None:
    npm = need("npm", _NODE)
    (folder / "package.json").write_text('{"private": true}\n')
    options = [
        "--prefix",
        str(folder),
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--save-exact",
    ]
    fetch([npm, "install", *options, f"onnxruntime-web@{VERSION}"], "onnxruntime-web")
