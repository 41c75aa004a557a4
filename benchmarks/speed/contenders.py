"""Who takes part: this project's precisions and what a user would pick instead."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contender:
    """One way to run the device segment."""

    name: str
    runner: str  # module of benchmarks.speed that runs it
    graph: str | None = None  # which prepared graph it reads; None: the checkpoint
    packages: str | None = None  # requirements-{packages}.txt: what the project itself lacks
    ours: bool = False


CONTENDERS = (
    Contender("int8", "onnx_runner", "int8", ours=True),
    Contender("int4", "onnx_runner", "int4", ours=True),
    Contender("fp32", "onnx_runner", "fp32", ours=True),
    Contender("ort-fp32", "onnx_runner", "fp32-torch-onnx"),
    Contender("ort-quantize-dynamic", "onnx_runner", "quantize-dynamic"),
    Contender("torch-eager", "torch_runner"),
    Contender("torch-compile", "torch_runner"),
    Contender("torch-dynamic-int8", "torch_runner"),
    Contender("torchao-int8", "torch_runner", packages="torchao"),
    Contender("openvino-fp32", "openvino_runner", "fp32-opset20", "openvino"),
    Contender("openvino-int8", "openvino_runner", "fp32-opset20", "openvino"),
    Contender("executorch-8da8w", "executorch_runner", packages="executorch"),
)
_NEEDED = tuple(contender.name for contender in CONTENDERS if contender.ours)  # always run


def choose(peers: str) -> list[Contender]:
    """The contenders for `--peers`: `all`, `none`, or names with commas between.

    Raises ValueError naming the peers that exist when one does not.
    """
    names = [contender.name for contender in CONTENDERS if contender.name not in _NEEDED]
    asked = names if peers == "all" else [] if peers == "none" else peers.split(",")
    if unknown := sorted(set(asked) - set(names)):
        raise ValueError(f"no peer is called {unknown[0]!r}; there are {', '.join(names)}")
    return [c for c in CONTENDERS if c.name in (*_NEEDED, *asked)]


def install(packages: str, cache: Path) -> Path:
    """Folder with what requirements-{packages}.txt pins, installed on first use.

    It goes in front of the project's own packages in a process of its own, so that pins that
    contradict the project's hurt nobody else. The files name everything that the project lacks,
    and pip adds nothing: every peer runs on the project's own torch and numpy. Raises
    RuntimeError with pip's last words.
    """
    requirements = _HERE / f"requirements-{packages}.txt"
    version = f"{sys.version_info[:2]}{requirements.read_text()}"
    folder = cache / f"{packages}-{hashlib.sha256(version.encode()).hexdigest()[:12]}"
    done = folder / ".complete"
    if done.exists():
        return folder
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--no-deps"]
    command += ["--target", str(folder), "--requirement", str(requirements)]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"pip: {_last_line(finished.stderr)}")
    done.touch()
    return folder


def environment(folder: Path | None, threads: int) -> dict[str, str]:
    """The environment of a contender's process: its threads, its packages."""
    found = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        found[name] = str(threads)
    paths: Sequence[str] = [str(_HERE.parents[1]), found.get("PYTHONPATH", "")]
    if folder is not None:
        paths = [str(folder), *paths]
    found["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return found


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"
