"""A virtual environment with `[edge]` and nothing else, and what each package in it weighs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

# Not counted: they come with the environment, not with the runtime.
INSTALLERS = frozenset({"pip", "setuptools", "wheel"})


def make_environment(directory: Path, repository: Path) -> Path:
    """Make the environment if it is not there; its Python. Raises CalledProcessError."""
    python = directory / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    constraints = str(repository / "constraints.txt")
    wanted = f"{repository}[edge]"
    command = [str(python), "-m", "pip", "install", "--quiet", "--constraint", constraints]
    # Ours anew each time: the version number does not change with every edit.
    subprocess.run([*command, wanted], check=True)
    again = ["--force-reinstall", "--no-deps", str(repository)]
    subprocess.run([*command, *again], check=True)
    return python


def site_packages(environment: Path) -> Path:
    """Where the environment keeps its packages."""
    return next((environment / "lib").glob("python*/site-packages"))


def weigh(site: Path) -> dict[str, float]:
    """Distribution -> MB (10^6 bytes) of the disk blocks its files take, the heaviest first."""
    found = {
        item.metadata["Name"]: sum(_blocks(path) for path in _files(item)) / 1e6
        for item in distributions(path=[str(site)])
    }
    counted = ((name, size) for name, size in found.items() if name.lower() not in INSTALLERS)
    return dict(sorted(counted, key=lambda pair: -pair[1]))


def total(site: Path, weights: Mapping[str, float]) -> float:
    """MB of the whole directory without the installers, compiled files and left-overs included."""
    whole = sum(_blocks(path) for path in site.rglob("*")) / 1e6
    installers = sum(
        sum(_blocks(path) for path in _files(item)) / 1e6
        for item in distributions(path=[str(site)])
        if item.metadata["Name"].lower() in INSTALLERS
    )
    return max(whole - installers, sum(weights.values()))


def _files(item: Distribution) -> Iterable[Path]:
    return {Path(str(item.locate_file(name))) for name in item.files or ()}


def _blocks(path: Path) -> int:
    """Bytes of the disk that a file takes: many small ones take more than they hold."""
    return path.stat().st_blocks * 512 if path.is_file() and not path.is_symlink() else 0
