"""Which memory profile a graph runs in, and why. No result depends on it, only memory and speed.

packed    weights are copied into the layout that is fastest: the most private memory
mapped    that layout lies in a file of this device and is mapped: the pages can be given back
unpacked  weights are used as the bundle has them, mapped: needs no file; slower
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitfrozen.manifest import Manifest

_ROOM = 128 * 1024 * 1024  # bytes that a client needs besides three times the weights
_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Wanted:
    """Whether little memory shall be used, and the reason for people."""

    low: bool
    reason: str


def want_low(memory: str, weights: int, available: int | None) -> Wanted:
    """Decide for `memory` auto, normal or low; `weights` and `available` in bytes. Pure."""
    if memory == "normal":
        return Wanted(False, "asked for")
    if memory == "low":
        return Wanted(True, "asked for")
    if available is None:
        return Wanted(False, "the free memory is not known")
    needed = 3 * weights + _ROOM
    shown = f"{available / 1e6:.0f} MB of memory are free"
    if available < needed:
        return Wanted(True, f"{shown}, less than {needed / 1e6:.0f} MB")
    return Wanted(False, shown)


def why_packed(manifest: Manifest, graph: bytes) -> str | None:
    """Why a graph must not run unpacked; None if it may. `graph`: the bytes of the ONNX file.

    MatMulNBits without prepacking dequantizes everything, slower and with more memory; products
    in fp32 take another kernel, which rounds otherwise: an activation would depend on the profile.
    """
    if b"MatMulNBits" in graph:
        return "its products are MatMulNBits, which needs prepacked weights"
    if manifest.precision != "int8":
        return f"products of precision {manifest.precision} round otherwise without prepacking"
    coverage = manifest.report.get("coverage")
    kept = coverage.get("kept") if isinstance(coverage, Mapping) else None
    if kept:
        return "layers that were kept in fp32 round otherwise without prepacking"
    return None


def available_memory(meminfo: Path = _MEMINFO, cgroups: Path = _CGROUPS) -> int | None:
    """Bytes that can be used without swapping, control group included; None if nobody knows."""
    found = [_from_meminfo(_read(meminfo)), _from_cgroup(cgroups)]
    return min((size for size in found if size is not None), default=None)


def _from_meminfo(text: str) -> int | None:
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["MemAvailable:"] and words[1].isdigit():
            return int(words[1]) * 1024
    return None


def _from_cgroup(root: Path) -> int | None:
    limit, used = _read(root / "memory.max").strip(), _read(root / "memory.current").strip()
    if not limit.isdigit() or not used.isdigit():
        return None  # "max": no limit
    return max(0, int(limit) - int(used))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError):
        return ""


def process_memory(path: Path = Path("/proc/self/smaps_rollup")) -> dict[str, Any]:
    """`rss` and `anonymous` bytes of this process; {} where the system does not say."""
    names = {"Rss:": "rss", "Anonymous:": "anonymous"}
    rows = (line.split() for line in _read(path).splitlines())
    return {names[row[0]]: int(row[1]) * 1024 for row in rows if row and row[0] in names}
