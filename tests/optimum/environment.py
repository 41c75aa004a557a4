"""The environment of its own in which Optimum runs: `python -m tests.optimum.environment`.

optimum-onnx pins an older Transformers than ours, so both cannot live in one environment
(docs/decisions.md). Made once and kept; made anew when constraints/optimum.txt changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CONSTRAINTS = REPOSITORY / "constraints" / "optimum.txt"
DIRECTORY = REPOSITORY / ".optimum-venv"
LOCK = REPOSITORY / ".cache" / "optimum-venv.lock"
WANTED = ("optimum-onnx", "onnxruntime", "torch")


def optimum_python(directory: Path = DIRECTORY) -> Path:
    """The interpreter of the environment, which is made when it is missing or outdated.

    Takes minutes the first time. Several test processes may ask at once: one makes it, the
    others wait. Raises CalledProcessError when pip fails; its output is on stderr.
    """
    python = directory / "bin" / "python"
    mark = directory / "made-from"
    wanted = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.is_file() or mark.read_text() != wanted:
            shutil.rmtree(directory, ignore_errors=True)
            venv.create(directory, with_pip=True)
            (directory / ".gitignore").write_text("*\n")
            _install(python)
            mark.write_text(wanted)
    return python


def _install(python: Path) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
    subprocess.run([*command, *WANTED], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    print(optimum_python())
