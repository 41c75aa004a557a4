"""One graph, one set of inputs, every platform: the tensors that come out of each.

answers = run_on(CORTEX_A76, bundle / "device.onnx", token_inputs(ids))
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks.emulation import arm, wasm
from benchmarks.emulation.commands import run as run_command
from splitfrozen.graph import ATTENTION_MASK, INPUT_IDS

X86_64 = "x86-64"
WASM = "wasm"
PLATFORMS = (X86_64, *arm.CPUS, WASM)
OTHERS = PLATFORMS[1:]

Tensors = dict[str, NDArray[Any]]
_PROGRAM = Path(__file__).with_name("run_graph.py")
_SECONDS = 600.0


def prepare(platform: str) -> None:
    """Build what the platform needs. Raises PlatformUnavailable where that is impossible."""
    if platform in arm.CPUS:
        arm.prepare()
    elif platform == WASM:
        wasm.prepare()


def run_on(
    platform: str, graph: Path, inputs: Mapping[str, NDArray[Any]], **options: Any
) -> Tensors:
    """All outputs of a graph with its weights beside it, computed on a platform.

    `options` are those of `run_graph.py`, or on WASM the session options of onnxruntime-web.
    Raises PlatformUnavailable, and PlatformFailure with the runtime's own words.
    """
    with tempfile.TemporaryDirectory(prefix="splitfrozen-platform-") as scratch:
        source, target = Path(scratch) / "inputs", Path(scratch) / "outputs"
        save_file({name: np.ascontiguousarray(values) for name, values in inputs.items()}, source)
        if platform == WASM:
            wasm.run_file(graph, source, target, options, seconds=_SECONDS)
        else:
            _run_python(platform, [_PROGRAM, graph, source, target, json.dumps(options)])
        return {name: values.copy() for name, values in load_file(target).items()}


def token_inputs(examples: Sequence[Sequence[int]]) -> Tensors:
    """What a device graph takes for some examples, padded on the right with id 0."""
    shape = (len(examples), max(map(len, examples)))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, example in enumerate(examples):
        ids[row, : len(example)] = example
        mask[row, : len(example)] = 1
    return {INPUT_IDS: ids, ATTENTION_MASK: mask}


def _run_python(platform: str, arguments: list[str | Path]) -> None:
    if platform == X86_64:
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        run_command([sys.executable, *arguments], where=platform, environ=environ, seconds=_SECONDS)
    else:
        arm.run(platform, arguments, seconds=_SECONDS)
