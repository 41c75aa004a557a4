"""What the system says about itself. Reads files and asks the kernel; decides nothing."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_UNSYNCHRONISED = 5  # adjtimex returns TIME_ERROR
_ROOT = Path("/")


@dataclass(frozen=True)
class Machine:
    """One computer. Sizes in bytes; None where the system does not say."""

    system: str  # Linux, Darwin, Windows
    machine: str  # of the kernel: aarch64, armv7l, x86_64 …
    bits: int  # of this Python: 32 or 64
    python: tuple[int, int, int]
    glibc: tuple[int, int] | None = None
    board: str = ""  # "Raspberry Pi 4 Model B Rev 1.4"
    cpu_features: frozenset[str] = frozenset()
    memory: Mapping[str, int] = field(default_factory=dict)  # /proc/meminfo, in bytes
    swaps: tuple[str, ...] = ()
    clock_synchronised: bool | None = None
    throttled: int | None = None  # bits of the Pi's firmware
    temperature: float | None = None  # degrees Celsius


def read_machine(root: Path = _ROOT) -> Machine:
    """This computer, its /proc and /sys below `root`."""
    version = sys.version_info
    return Machine(
        system=platform.system(),
        machine=platform.machine(),
        bits=8 * struct.calcsize("P"),
        python=(version.major, version.minor, version.micro),
        glibc=_glibc(),
        board=_text(root / "proc/device-tree/model").strip("\0\n "),
        cpu_features=parse_cpu_features(_text(root / "proc/cpuinfo")),
        memory=parse_memory(_text(root / "proc/meminfo")),
        swaps=parse_swaps(_text(root / "proc/swaps")),
        clock_synchronised=_is_synchronised(),
        throttled=_read_throttled(root),
        temperature=_read_temperature(root),
    )


def parse_cpu_features(cpuinfo: str) -> frozenset[str]:
    """The features that every core has: big and little ones may differ."""
    cores = [
        frozenset(value.split())
        for name, _, value in (line.partition(":") for line in cpuinfo.splitlines())
        if name.strip() in ("Features", "flags")
    ]
    return frozenset.intersection(*cores) if cores else frozenset()


def parse_memory(meminfo: str) -> dict[str, int]:
    """Name -> bytes."""
    found = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * (1024 if words[-1] == "kB" else 1)
    return found


def parse_swaps(text: str) -> tuple[str, ...]:
    """Files and devices of /proc/swaps."""
    return tuple(line.split()[0] for line in text.splitlines()[1:] if line.strip())


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _glibc() -> tuple[int, int] | None:
    try:
        words = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        major, minor = words[1].split(".")[:2]
        return int(major), int(minor)
    except (ValueError, OSError, IndexError, AttributeError):
        return None


def _is_synchronised() -> bool | None:
    """Whether something keeps the kernel's clock right; what timedatectl shows."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        # An empty request changes nothing; the structure has at most 208 bytes.
        state = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _UNSYNCHRONISED


def _read_throttled(root: Path) -> int | None:
    """The firmware's bits, from sysfs or from vcgencmd; None on other boards."""
    platforms = root / "sys/devices/platform"
    for path in [*platforms.glob("soc/*/get_throttled"), *platforms.glob("*/get_throttled")]:
        return _hex(_text(path))
    program = shutil.which("vcgencmd")
    if program is None or root != _ROOT:
        return None
    try:
        done = subprocess.run(
            [program, "get_throttled"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _hex(done.stdout.strip().removeprefix("throttled="))


def _hex(text: str) -> int | None:
    try:
        return int(text.strip(), 16)
    except ValueError:
        return None


def _read_temperature(root: Path) -> float | None:
    text = _text(root / "sys/class/thermal/thermal_zone0/temp").strip()
    return int(text) / 1000 if text.lstrip("-").isdigit() else None
