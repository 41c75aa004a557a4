"""Time a bundle on this machine, each number of threads in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from splitfrozen.errors import SplitFrozenError
from splitfrozen.manifest import bundle_id, parse_manifest
from splitfrozen_export.tools.overview import read_manifest
from splitfrozen_export.words import megabytes

_CHILD = "splitfrozen_export.tools.timing"
_MINUTES = 30


def bench_bundle(directory: Path, threads: Sequence[int], rounds: int) -> dict[str, Any]:
    """Measurements of `timing.measure`, one for each number of threads.

    Raises ManifestError for no bundle, SplitFrozenError `check_failed` when a run fails.
    """
    raw = read_manifest(directory)
    manifest = parse_manifest(raw)
    return {
        "bundle": bundle_id(raw),
        "base_model": manifest.base_model.id,
        "cut": manifest.cut,
        "precision": manifest.precision,
        "rounds": rounds,
        "machine": _machine(),
        "runs": [_measure(directory, count, rounds) for count in dict.fromkeys(threads)],
    }


def bench_json(found: dict[str, Any]) -> dict[str, Any]:
    """For a script: what was measured, as it is."""
    return found


def bench_lines(found: dict[str, Any]) -> list[str]:
    """For a person."""
    machine = found["machine"]
    lines = [
        f"{found['base_model']} cut {found['cut']} {found['precision']} on {machine['processor']}, "
        f"{machine['cores']} cores, ONNX Runtime {machine['onnxruntime']}; medians of "
        f"{found['rounds']} runs",
        "threads  batch    tokens/s      ms  CPU s / 1,000 tokens  peak memory",
    ]
    for run in found["runs"]:
        for shape, row in run["shapes"].items():
            lines.append(
                f"{run['threads']:7}  {shape:5}  {row['tokens_per_s']:10,.0f}  {row['ms']:6.1f}  "
                f"{row['cpu_s_per_1000_tokens']:20.3f}  {megabytes(row['memory_peak']):>11}"
            )
    loads = ", ".join(f"{run['load_ms']:.0f} ms" for run in found["runs"])
    before = megabytes(found["runs"][0]["memory_before"])
    return [*lines, f"Loading the session took {loads}; the process had {before} before it."]


def _measure(directory: Path, threads: int, rounds: int) -> dict[str, Any]:
    command = [sys.executable, "-m", _CHILD, str(directory.absolute()), str(threads), str(rounds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * _MINUTES)
    except subprocess.TimeoutExpired:
        raise SplitFrozenError(
            "check_failed",
            f"{directory} cannot be timed: {rounds} rounds on {threads} threads took more than "
            f"{_MINUTES} minutes; give fewer --rounds",
        ) from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise SplitFrozenError("check_failed", f"{directory} cannot be timed: {lines[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _machine() -> dict[str, Any]:
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "processor": _processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "onnxruntime": version("onnxruntime"),
    }


def _processor() -> str:
    """The processor's name as Linux tells it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
