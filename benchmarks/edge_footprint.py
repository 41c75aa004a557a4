"""What the edge runtime takes on a device: disk, start, memory, idle and busy processor time.

    python benchmarks/edge_footprint.py
    python benchmarks/edge_footprint.py --only install,status

Makes a bundle of gpt2's shape (random weights, cut 4, int8), a clean virtual environment with
`[edge]`, and a real server; every figure is read from fresh processes of that environment.
MB are 10^6 bytes. Memory is that of /proc/PID/smaps_rollup; of whole commands the largest of many
looks while they run. CPU-seconds are user and system time of a whole process, imports included.

The last line is one JSON object. Exit codes: 0 measured, 1 a target is missed with --check,
2 wrong usage or something that could not be run.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click

from benchmarks.footprint.clean import make_environment, site_packages, total, weigh
from benchmarks.footprint.device import Device, enrol, make_dataset, publish
from benchmarks.footprint.figures import (
    activation_figures,
    client_figures,
    one_row,
    push_figures,
    session_figures,
    status_figures,
)
from benchmarks.footprint.process import ProcessError
from benchmarks.real_inputs import REPOSITORY
from benchmarks.shapes import SHAPES, write_shape
from benchmarks.walkthrough.children import Children, CommandError
from benchmarks.walkthrough.commands import Server, command_path

CACHE = REPOSITORY / ".cache" / "footprint"
PARTS = ("install", "status", "start", "session", "client", "idle", "push")
MAX_LENGTH = 128  # tokens of an example
# Figure -> the most it may be.
TARGETS = {
    "site_mb": 220,
    "distributions": 32,
    "status_s": 0.6,
    "first_activation_s": 1.5,
    "rss_mb": 205,
    "anon_mb": 110,
    "anon_low_mb": 80,
    "session_rss_mb": 150,
    "session_anon_mb": 70,
    "session_anon_low_mb": 45,
    "idle_cpu": 0.003,
    "push_vs_bare_loop": 1.15,
}


@click.command()
@click.option("--model-shape", type=click.Choice(list(SHAPES)), default="gpt2", show_default=True)
@click.option("--cut", type=click.IntRange(1), default=4, show_default=True)
@click.option("--rows", type=click.IntRange(1), default=2000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--idle-seconds", type=click.FloatRange(1), default=120.0, show_default=True)
@click.option("--only", default=",".join(PARTS), show_default="all", help="Parts, with commas.")
@click.option("--check", is_flag=True, help="Exit with 1 if a target is missed.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=CACHE)
def edge_footprint(
    model_shape: str,
    cut: int,
    rows: int,
    rounds: int,
    idle_seconds: float,
    only: str,
    check: bool,
    cache: Path,
) -> None:
    """Measure the footprint of the edge runtime."""
    wanted = only.split(",")
    if unknown := set(wanted) - set(PARTS):
        raise click.BadParameter(f"{', '.join(unknown)}: not of {', '.join(PARTS)}")
    cache = cache.resolve()
    _tell("making the clean environment")
    python = make_environment(cache / "venv", REPOSITORY)
    site = site_packages(cache / "venv")
    found: dict[str, Any] = {}
    if "install" in wanted:
        packages = weigh(site)
        found["site_mb"] = round(total(site, packages), 1)
        found["distributions"] = len(packages)
        found["torch"] = any(name.lower() == "torch" for name in packages)
        found["packages_mb"] = {name: round(size, 2) for name, size in packages.items()}
    if set(wanted) - {"install"}:
        model, bundle = _bundle(model_shape, cut, cache)
        with _device(model, bundle, cut, python.with_name("splitfrozen-edge")) as (device, scratch):
            for part in wanted:
                found |= _measure(part, device, scratch, rows, rounds, idle_seconds)
    missed = find_missed(found)
    result = {
        "model": model_shape,
        "cut": cut,
        **found,
        "missed": missed,
        "machine": _machine(site),
    }
    click.echo("\n".join(_table(found)))
    click.echo(json.dumps(result))
    if check and missed:
        sys.exit(1)


def _measure(
    part: str, device: Device, scratch: Path, rows: int, rounds: int, idle_seconds: float
) -> dict[str, Any]:
    _tell(f"measuring: {part}")
    if part == "status":
        return status_figures(device, rounds)
    if part == "start":
        return activation_figures(device, rounds)
    if part == "session":
        return session_figures(device)
    if part == "client":
        return client_figures(device, "small", scratch)
    if part == "idle":
        data = one_row(scratch / "watched.jsonl", 50)
        return {"idle_cpu": round(device.idle(data, "small", idle_seconds), 5)}
    if part == "push":
        return push_figures(device, "long", scratch, rows, _tell)
    return {}


@contextmanager
def _device(model: Path, bundle: Path, cut: int, command: Path) -> Iterator[tuple[Device, Path]]:
    """An enrolled device, and a directory for its files; a real server while it is used."""
    with tempfile.TemporaryDirectory(prefix="splitfrozen-footprint-") as name:
        scratch = Path(name)
        with Children(scratch / "logs", scratch) as children:
            _tell("starting the server")
            server = Server.start(children, scratch / "server")
            publish(server, model, bundle, cut)
            for dataset in ("small", "long-0", "long-1", "long-2"):
                make_dataset(server, dataset, cut)
            yield enrol(server, command, scratch / "state", bundle), scratch


def _bundle(shape: str, cut: int, cache: Path) -> tuple[Path, Path]:
    """A model directory of random weights, and its bundle; both are kept."""
    model, bundle = cache / shape, cache / f"{shape}-cut{cut}-int8"
    if not bundle.is_dir():
        _tell("making the bundle")
        if not model.is_dir():
            write_shape(shape, model)
        command = [command_path("splitfrozen-export"), "--model", str(model), "--cut", str(cut)]
        command += ["--max-length", str(MAX_LENGTH), "--max-error", "1", "--output", str(bundle)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return model, bundle


def find_missed(found: dict[str, Any]) -> dict[str, Any]:
    """The figures that exceed their target. Pure."""
    measured = {name: found[name] for name in TARGETS if found.get(name) is not None}
    return {name: value for name, value in measured.items() if value > TARGETS[name]}


def _table(found: dict[str, Any]) -> Iterator[str]:
    yield "| figure | measured | target |"
    yield "| --- | --- | --- |"
    for name, limit in TARGETS.items():
        if name in found:
            yield f"| {name} | {found[name]} | {limit} |"


def _machine(site: Path) -> dict[str, Any]:
    lines = _cpu_lines()
    names = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    versions = sorted(path.name for path in site.glob("*.dist-info"))
    return {
        "cpu": ", ".join(sorted(names)) or platform.machine(),
        "cores": sum(line.startswith("processor") for line in lines),
        "python": platform.python_version(),
        "packages": [name.removesuffix(".dist-info") for name in versions],
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _tell(message: str) -> None:
    click.echo(message, err=True)


def main() -> None:
    """Run the command and leave with a documented exit code."""
    try:
        edge_footprint.main(standalone_mode=False)
    except (CommandError, ProcessError, subprocess.CalledProcessError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(2)


if __name__ == "__main__":
    main()
