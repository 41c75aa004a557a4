"""Both graphs of a decoder as a device runs them, and what one way of that takes in memory.

    python -m benchmarks.speed.generation DIRECTORY WAY VOCABULARY PREPACK

Reads 128 tokens and, unless only device.onnx is open, takes 16 steps behind them; prints MB (10^6
bytes) as one JSON object. RSS counts a page once for each session that maps it, PSS once in all.
Imports neither torch nor Transformers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from splitfrozen.graph import ATTENTION_MASK, DEVICE_GRAPH, DEVICE_WITH_PAST, INPUT_IDS

TOKENS = 128
STEPS = 16
WAYS = ("device.onnx only", "both sessions", "device_with_past.onnx for both")


def open_graph(graph: Path, *, prepack: bool = True) -> ort.InferenceSession:
    """On one thread, as a device does; `prepack` is ONNX Runtime's default."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def whole_text(session: ort.InferenceSession, ids: Any) -> dict[str, Any]:
    """All outputs for ids [1, seq], with an empty past where the graph takes one."""
    return step(session, ids, empty_past(session))


def step(session: ort.InferenceSession, ids: Any, past: dict[str, Any]) -> dict[str, Any]:
    """All outputs for ids [1, seq] behind `past`."""
    before = next((keys.shape[2] for keys in past.values()), 0)
    mask = np.ones((1, before + ids.shape[1]), np.int64)
    names = [value.name for value in session.get_outputs()]
    return dict(
        zip(names, session.run(names, {INPUT_IDS: ids, ATTENTION_MASK: mask, **past}), strict=True)
    )


def empty_past(session: ort.InferenceSession) -> dict[str, Any]:
    """Keys and values of no token; {} for a graph that takes none."""
    return {
        value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
        for value in session.get_inputs()
        if value.name not in (INPUT_IDS, ATTENTION_MASK)
    }


def past_of(outputs: dict[str, Any]) -> dict[str, Any]:
    """What a step takes from the call before it."""
    return {
        name.replace("present", "past_key_values"): value
        for name, value in outputs.items()
        if name.startswith("present")
    }


def make_ids(vocabulary: int, tokens: int = TOKENS, seed: int = 0) -> Any:
    """Random ids [1, tokens]."""
    return np.random.default_rng(seed).integers(0, vocabulary, (1, tokens), np.int64)


def main() -> None:
    """Open, run, measure."""
    directory, way = Path(sys.argv[1]), sys.argv[2]
    ids, prepack = make_ids(int(sys.argv[3])), sys.argv[4] == "1"
    before = _memory()["rss"]
    files = [DEVICE_GRAPH, DEVICE_WITH_PAST][way == WAYS[2] : 1 + (way != WAYS[0])]
    sessions = [open_graph(directory / file, prepack=prepack) for file in files]
    outputs: dict[str, Any] = {}
    for session in sessions:
        outputs = whole_text(session, ids)
    for _ in range(0 if way == WAYS[0] else STEPS):
        outputs = step(sessions[-1], ids[:, :1], past_of(outputs))
    print(json.dumps({**_memory(), "before": before}))


def _memory() -> dict[str, float]:
    status = Path("/proc/self/smaps_rollup").read_text()
    names = {"rss": "Rss:", "pss": "Pss:", "anonymous": "Anonymous:"}
    kilobytes = {name: int(status.split(f"\n{key}")[1].split()[0]) for name, key in names.items()}
    return {name: round(value * 1024 / 1e6, 1) for name, value in kilobytes.items()}


if __name__ == "__main__":
    main()
