"""How many cores this process may use: its affinity, and the quota of its control group."""

from __future__ import annotations

import math
import os
from pathlib import Path

MOST = 4  # threads: more rarely pays on small devices
_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def default_threads() -> int:
    """At most 4 of the cores that this process may use."""
    return min(MOST, usable_cores())


def usable_cores() -> int:
    """Cores by affinity, or fewer if a control group (systemd's CPUQuota, a container) says so."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota(root: Path = _CGROUPS, own: Path = _OWN) -> float | None:
    """The tightest quota from this process' control group up to the root, in cores; None: none.

    Reads version 2; version 1 (Debian 10 and older) only where it is mounted as a container has it.
    """
    found = [_quota_v2(path / "cpu.max") for path in _ancestry(root, own)]
    found.append(_quota_v1(root / "cpu"))
    return min((quota for quota in found if quota is not None), default=None)


def _ancestry(root: Path, own: Path) -> list[Path]:
    """The directories of the process' group and of those above it."""
    name = ""
    for line in _read(own).splitlines():
        if line.startswith("0::"):
            name = line[3:].strip("/")
    path = root / name
    return [path, *(above for above in path.parents if above == root or root in above.parents)]


def _quota_v2(path: Path) -> float | None:
    words = _read(path).split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None  # "max 100000", or no such file
    return int(words[0]) / int(words[1])


def _quota_v1(directory: Path) -> float | None:
    quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
    if not quota.strip().isdigit() or not period.strip().isdigit() or int(period) == 0:
        return None  # -1 is no quota
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError):
        return ""
