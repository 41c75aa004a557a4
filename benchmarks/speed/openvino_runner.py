"""OpenVINO on the fp32 graph of opset 20, as it is or with 8-bit weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import openvino  # type: ignore[import-not-found]
from numpy.typing import NDArray

from benchmarks.speed.worker import Ids, Runner, Task
from splitfrozen.graph import ATTENTION_MASK, INPUT_IDS


def load(task: Task) -> Runner:
    """Convert, compile for latency on `threads` threads."""
    core = openvino.Core()
    model = core.read_model(str(task.graph))
    if task.name == "openvino-int8":
        import nncf  # type: ignore[import-not-found]

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    settings = {
        "INFERENCE_NUM_THREADS": task.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.xml"
        openvino.save_model(model, str(path), compress_to_fp16=False)
        size = sum(file.stat().st_size for file in Path(directory).iterdir())
    compiled = core.compile_model(model, "CPU", settings)

    def run(ids: Ids, mask: Ids) -> NDArray[np.float32]:
        found: NDArray[np.float32] = compiled({INPUT_IDS: ids, ATTENTION_MASK: mask})[0]
        return found

    return Runner(run, size)
