"""Run an ONNX graph on the tensors of a safetensors file: `run_graph.py GRAPH IN OUT [OPTIONS]`.

Needs numpy, ONNX Runtime and safetensors alone, so it runs on an emulated board too. OPTIONS is a
JSON object: `threads` (1) and `optimization`, a level of ONNX Runtime's optimizations ("all").
"""

from __future__ import annotations

import json
import sys
from typing import Any

import onnxruntime as ort
from safetensors.numpy import load_file, save_file

LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def run(graph: str, inputs: str, outputs: str, options: dict[str, Any]) -> None:
    """Run `graph` once and write every output under its name."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.get("threads", 1)
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    settings.graph_optimization_level = LEVELS[options.get("optimization", "all")]
    session = ort.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    save_file(dict(zip(names, session.run(names, load_file(inputs)), strict=True)), outputs)


if __name__ == "__main__":
    graph, inputs, outputs, *options = sys.argv[1:]
    run(graph, inputs, outputs, json.loads(options[0]) if options else {})
