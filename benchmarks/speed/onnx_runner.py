"""ONNX Runtime on a prepared graph, with the settings of the edge runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.speed.worker import Ids, Runner, Task
from splitfrozen.graph import ATTENTION_MASK, HIDDEN, INPUT_IDS


def load(task: Task) -> Runner:
    """Open the session; its size is that of the graph and its weights."""
    assert task.graph is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(task.graph), options, providers=["CPUExecutionProvider"]
    )

    def run(ids: Ids, mask: Ids) -> NDArray[np.float32]:
        (hidden,) = session.run([HIDDEN], {INPUT_IDS: ids, ATTENTION_MASK: mask})
        found: NDArray[np.float32] = hidden
        return found

    return Runner(run, sum(path.stat().st_size for path in task.graph.parent.iterdir()))
