"""What may not change under a cache or a measurement: this machine, its processor, the runtime."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

# What distinguishes processors in /proc/cpuinfo: on x86 the first four, on Arm the others.
_FIELDS = (
    "vendor_id",
    "model name",
    "stepping",
    "flags",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "CPU revision",
    "Features",
)
_CPUINFO = Path("/proc/cpuinfo")
_MACHINE = Path("/etc/machine-id")


def processor_key(cpuinfo: Path = _CPUINFO, machine: Path = _MACHINE) -> str:
    """16 hex digits that change with the processor or the machine.

    Not secret and not kept from anyone who has the machine: it only tells two machines apart.
    """
    lines = sorted(_facts(_read(cpuinfo)))
    text = json.dumps([platform.machine(), platform.processor(), lines, _read(machine).strip()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe_processor(cpuinfo: Path = _CPUINFO) -> str:
    """Its name for people, as far as the system says it."""
    rows = (line.partition(":") for line in _read(cpuinfo).splitlines())
    known = {name.strip(): value.strip() for name, _, value in rows}
    for name in ("model name", "Model", "Hardware"):
        if known.get(name):
            return known[name]
    return platform.processor() or platform.machine()


def _facts(text: str) -> set[str]:
    """The lines that describe the processor, each once: cores of one kind look alike."""
    found = set()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in _FIELDS:
            found.add(f"{name.strip()}: {' '.join(sorted(value.split()))}")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
