"""The edge as a user of a Raspberry Pi gets it: the built wheel with its extra, for arm64."""

from __future__ import annotations

import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks.emulation import arm
from benchmarks.emulation.commands import fetch
from benchmarks.emulation.pins import applies

_REPOSITORY = Path(__file__).resolve().parents[2]


def build_wheel(folder: Path) -> Path:
    """Build this repository's wheel into `folder`. Raises PlatformUnavailable without network."""
    fetch(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, _REPOSITORY],
        "what builds the wheel",
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def requirements_of(wheel: Path, extra: str, *, python: str, machine: str) -> list[str]:
    """What a wheel with an extra needs there, without markers."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = BytesParser().parsebytes(archive.read(name)).get_all("Requires-Dist", [])
    found = []
    for needed in map(Requirement, lines):
        if any(applies(needed, wanted, python, machine) for wanted in ("", extra)):
            needed.marker = None
            found.append(str(needed))
    return found


def install_edge(wheel: Path, folder: Path) -> list[Path]:
    """Put `wheel[edge]` where an emulated Pi finds it: folders for its PYTHONPATH."""
    arm.install([wheel], folder)
    needed = requirements_of(wheel, "edge", python=arm.PYTHON, machine=arm.MACHINE)
    return [folder, arm.packages(needed)]
