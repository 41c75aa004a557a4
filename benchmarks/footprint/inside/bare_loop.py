"""The floor of a push: ONNX Runtime over the same batches and nothing around it: GRAPH BATCHES
THREADS.

BATCHES is an .npz with ids_0, mask_0, ids_1, …; outputs are what a push asks for.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime

graph, batches, threads = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
with np.load(batches) as stored:
    for number in range(len(stored.files) // 2):
        feeds = {
            "input_ids": stored[f"ids_{number}"],
            "attention_mask": stored[f"mask_{number}"],
        }
        session.run(["hidden", "hidden_q", "scale"], feeds)
