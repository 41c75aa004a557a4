"""The figures of the edge's footprint, each from fresh processes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.footprint.batches import write_batches
from benchmarks.footprint.device import Device
from benchmarks.footprint.process import Seen
from benchmarks.footprint.rows import write_rows
from splitfrozen.bundle import read_bundle
from splitfrozen.graph import DEVICE_GRAPH

Tell = Callable[[str], None]
_TOKENS = 128
_WORDS = (8, 160)  # of the rows of the long push
CPU_SHARE = 0.5


def median_seconds(runs: list[Seen]) -> float:
    """Median wall time."""
    return round(statistics.median(seen.wall_seconds for seen in runs), 3)


def status_figures(device: Device, rounds: int) -> dict[str, Any]:
    """`status` of an enrolled device, from process start to process end."""
    device.run("status")  # compiled and in the page cache from here on
    return {"status_s": median_seconds([device.run("status") for _ in range(rounds)])}


def activation_figures(device: Device, rounds: int) -> dict[str, Any]:
    """From process start to the end of a process whose last act is the first activation.

    `first_start_s`: of the very first start, which also measures how many threads to use.
    """
    words = (str(device.bundle), str(device.state))
    device.inside("first_activation", *words)
    runs = [device.inside("first_activation", *words) for _ in range(rounds)]
    known = device.state / "threads.json"
    first = []
    for _ in range(rounds):
        known.unlink(missing_ok=True)
        first.append(device.inside("first_activation", *words))
    return {"first_activation_s": median_seconds(runs), "first_start_s": median_seconds(first)}


def session_figures(device: Device) -> dict[str, Any]:
    """Memory of a process with the session only, in both profiles."""
    found = {}
    for memory in ("normal", "low"):
        words = (str(device.bundle), str(device.state), memory)
        device.inside("session_only", *words)  # the first one makes what is kept on disk
        found[memory] = json.loads(device.inside("session_only", *words).output)
    return {
        "session_rss_mb": _mb(found["normal"]["rss"]),
        "session_anon_mb": _mb(found["normal"]["anonymous"]),
        "session_rss_low_mb": _mb(found["low"]["rss"]),
        "session_anon_low_mb": _mb(found["low"]["anonymous"]),
    }


def client_figures(device: Device, dataset: str, directory: Path) -> dict[str, Any]:
    """The most memory that a whole push of one row of 128 tokens ever has, in both profiles.

    An earlier push measured the threads; the largest of three pushes counts.
    """
    found = {}
    for place, memory in enumerate(("normal", "low")):
        option = ("--memory", memory) if device.has("push", "--memory") else ()
        runs = []
        for turn in range(4):
            data = one_row(directory / f"{memory}-{turn}.jsonl", 10 * place + turn)
            runs.append(device.push(data, dataset, *option, memory=True))
        tokens = {json.loads(seen.output)["tokens"] for seen in runs}
        found[memory] = max(seen.rss for seen in runs[1:]), max(s.anonymous for s in runs[1:])
    return {
        "rss_mb": _mb(found["normal"][0]),
        "anon_mb": _mb(found["normal"][1]),
        "rss_low_mb": _mb(found["low"][0]),
        "anon_low_mb": _mb(found["low"][1]),
        "client_tokens": sorted(tokens),
    }


def one_row(path: Path, seed: int) -> Path:
    """One row of at least 128 tokens, whatever the tokenizer: the bundle truncates it there."""
    return write_rows(path, 1, words=(_TOKENS, _TOKENS), seed=seed)


def push_figures(
    device: Device, dataset: str, directory: Path, rows: int, tell: Tell
) -> dict[str, Any]:
    """CPU-seconds of a duty-cycled push against those of the bare loop over the same batches.

    Both are whole processes from start to end, imports and loading included, on as many threads.
    """
    data = write_rows(directory / "long.jsonl", rows, words=_WORDS, seed=99)
    batches = directory / "batches.npz"
    bundle = read_bundle(device.bundle)
    _, tokens = write_batches(data, bundle, batches)
    threads = str(device.threads())
    share = ("--cpu-share", str(CPU_SHARE)) if device.has("push", "--cpu-share") else ()
    floor = (str(bundle.path(DEVICE_GRAPH)), str(batches), threads)
    loops, pushes = [], []
    for turn in range(3):
        loops.append(device.inside("bare_loop", *floor).cpu_seconds)
        words = ("--memory", "normal") if device.has("push", "--memory") else ()
        seen = device.push(data, f"{dataset}-{turn}", *words, "--threads", threads, *share)
        pushes.append(seen.cpu_seconds)
        tell(f"round {turn + 1}: bare loop {loops[-1]:.2f} CPU s, push {pushes[-1]:.2f} CPU s")
    return {
        "push_vs_bare_loop": round(statistics.median(pushes) / statistics.median(loops), 3),
        "push_cpu_s": round(statistics.median(pushes), 2),
        "bare_loop_cpu_s": round(statistics.median(loops), 2),
        "push_tokens": tokens,
        "push_threads": int(threads),
        "push_duty_cycled": bool(share),
    }


def _mb(size: int) -> float:
    return round(size / 1e6, 1)
