"""Time one bundle with one number of threads; prints one JSON object. A process of its own.

    python -m splitfrozen_export.tools.timing BUNDLE THREADS ROUNDS

Imports neither torch nor transformers: what it measures is what a device would need. The session
options are the edge's.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from splitfrozen.bundle import read_bundle
from splitfrozen.errors import SplitFrozenError
from splitfrozen.graph import ATTENTION_MASK, DEVICE_GRAPH, HIDDEN, HIDDEN_Q, INPUT_IDS, SCALE

SHAPES = ((1, 128), (8, 128))


def main() -> None:
    """Measure and print."""
    directory, threads, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    try:
        print(json.dumps(measure(directory, threads, rounds)))
    except SplitFrozenError as error:
        sys.exit(error.message)


def measure(directory: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Times in milliseconds and seconds, memory in bytes."""
    manifest = read_bundle(directory).manifest
    before = peak_memory()
    start = time.perf_counter()
    session = _open(directory / DEVICE_GRAPH, threads)
    loaded = time.perf_counter() - start
    names = [HIDDEN_Q, SCALE] if manifest.wire == "int8" else [HIDDEN]
    found: dict[str, Any] = {
        "threads": threads,
        "load_ms": 1e3 * loaded,
        "memory_before": before,
        "memory_loaded": peak_memory(),
        "shapes": {},
    }
    limit = manifest.preprocess.max_length
    for batch, length in SHAPES:
        seq = min(length, limit)
        ids = np.random.default_rng(0).integers(0, manifest.vocab_size, (batch, seq))
        feeds = {INPUT_IDS: ids, ATTENTION_MASK: np.ones_like(ids)}
        times, cpu = _time(lambda feeds=feeds: session.run(names, feeds), rounds)
        found["shapes"][f"{batch}x{seq}"] = {
            "ms": 1e3 * times,
            "tokens_per_s": batch * seq / times,
            "cpu_s_per_1000_tokens": 1000 * cpu / (batch * seq),
            "memory_peak": peak_memory(),
        }
    return found


def peak_memory() -> int:
    """Largest resident size of this program so far, bytes.

    From /proc where there is one: getrusage also counts the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10
    except (OSError, IndexError):
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest << 10


def _open(graph: Path, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _time(run: Any, rounds: int) -> tuple[float, float]:
    """Median seconds of a run, by the clock and by the CPU; two runs come before."""
    for _ in range(2):
        run()
    clock, cpu = [], []
    for _ in range(rounds):
        start, busy = time.perf_counter(), time.process_time()
        run()
        clock.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
    return statistics.median(clock), statistics.median(cpu)


if __name__ == "__main__":
    main()
