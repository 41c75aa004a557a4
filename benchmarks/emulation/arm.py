"""Python on an emulated Raspberry Pi: a Debian 12 arm64 root under user-mode QEMU.

    arm.run(arm.PI_5, ["script.py", "argument"])

runs an arm64 Python 3.11 with numpy, ONNX Runtime and everything else that the edge client needs,
in the versions that this environment has. Files and loopback sockets are the host's. Results are
those of the instructions that the board has; times say nothing about it.

QEMU 10 is needed: 7.2 crashes when ONNX Runtime 1.30 or newer starts. `-cpu max` would be no Pi:
it turns on SVE kernels.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.emulation.commands import fetch
from benchmarks.emulation.commands import run as run_command
from benchmarks.emulation.debian import unpack
from benchmarks.emulation.kept import PlatformUnavailable, keep
from benchmarks.emulation.pins import pin

PI_4 = "cortex-a72"
PI_5 = "cortex-a76"
CPUS = (PI_4, PI_5)
EVERYTHING = ("splitfrozen[edge]", "safetensors")  # what scripts on a board may import

_ROOT = "debian-12-arm64-2"  # the name says what is in it: change it with _SYSTEM
_QEMU = "qemu-user-10"
PYTHON = "3.11"  # Debian 12's, and so that of Raspberry Pi OS
MACHINE = "aarch64"
_GLIBC = 36  # 2.36
_SYSTEM = ("python3", "python3-venv", "libstdc++6", "ca-certificates")
_REPOSITORY = Path(__file__).resolve().parents[2]
_SOURCES = [_REPOSITORY / name for name in ("protocol", "edge_runtime", ".")]


def prepare() -> None:
    """Build what is missing: about 20 seconds and 200 MB. Raises PlatformUnavailable."""
    _qemu(), root(), packages()


def run(
    cpu: str,
    arguments: Sequence[str | Path],
    *,
    environ: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> str:
    """Run Python with `arguments` on an emulated CPU and return what it prints.

    `environ` is added to a minimal environment with one OpenMP thread. Raises PlatformUnavailable
    when the emulator cannot be built here, and PlatformFailure when the program fails.
    """
    return run_command(
        [*command(cpu), *arguments],
        where=f"Python on {cpu}",
        environ={**environment(), **(environ or {})},
        seconds=seconds,
    )


def command(cpu: str) -> list[str | Path]:
    """The emulated Python as a command, to be run with `environment()`; builds what is missing."""
    debian = root()
    python = debian / "usr/bin" / f"python{PYTHON}"
    return [_qemu() / "usr/bin/qemu-aarch64", "-cpu", cpu, "-L", debian, python]


def environment(paths: Sequence[Path] = ()) -> dict[str, str]:
    """What an emulated Python needs to find its packages: `paths`, or this project's sources."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(map(str, paths or [packages(), *_SOURCES])),
    }


def _qemu() -> Path:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise PlatformUnavailable("emulated boards need Linux on x86-64")
    return keep(_QEMU, _build_qemu)


def _build_qemu(folder: Path) -> None:
    unpack(["qemu-user"], "trixie", "amd64", folder)
    for program in (folder / "usr/bin").iterdir():
        if program.name != "qemu-aarch64":  # one program of 16 MB out of 470 MB
            program.unlink()


def root() -> Path:
    """The Debian root of the board, built when missing."""
    return keep(_ROOT, lambda folder: unpack(_SYSTEM, "bookworm", "arm64", folder))


def packages(requirements: Sequence[str] = EVERYTHING) -> Path:
    """A folder with requirements and all that they need, as arm64 wheels, fetched when missing.

    Raises PlatformUnavailable, also when something has no wheel for a Raspberry Pi.
    """
    pins = pin(requirements, python=PYTHON, machine=MACHINE)
    digest = hashlib.sha256("\n".join(pins).encode()).hexdigest()[:12]
    return keep(f"arm64-packages-{digest}", lambda folder: install(pins, folder))


def install(what: Sequence[str | Path], folder: Path) -> None:
    """Unpack wheels for the board into `folder`, these and no others."""
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(17, _GLIBC + 1)]
    options = [f"--platform={name}" for name in (*platforms, "manylinux2014_aarch64")]
    options += ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
    options += ["--no-deps", "--no-compile", "--quiet", f"--target={folder}"]
    fetch([sys.executable, "-m", "pip", "install", *options, *what], "arm64 Python packages")
