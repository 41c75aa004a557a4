"""Tries the runtime in a second process: an illegal instruction must not end this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from splitfrozen_edge.checkup.doctor.runtime_words import Trial

_MODULE = "splitfrozen_edge.checkup.doctor.try_runtime"
_SECONDS = 300.0  # a Pi with a slow card takes some ten to import the runtime for the first time
_KEPT = 4000  # characters of an error


def try_runtime(
    bundle: Path | None, launcher: Sequence[str] = (), *, seconds: float = _SECONDS
) -> Trial:
    """Start `launcher` and this Python, import the runtime and run a model."""
    command = [*launcher, sys.executable, "-P", "-m", _MODULE, *([str(bundle)] if bundle else [])]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return _trial(said.decode() if isinstance(said, bytes) else said, None, "")
    except OSError as error:
        return Trial("start", {}, cannot_start=str(error))
    return _trial(done.stdout, _signal_of(done.returncode, launcher), done.stderr)


def _signal_of(code: int, launcher: Sequence[str]) -> int:
    """A launcher may report its program's signal as a shell does: 128 and the signal."""
    return 128 - code if launcher and 128 < code < 160 else code


def _trial(output: str, code: int | None, error: str) -> Trial:
    reached = "start"
    versions: dict[str, str] = {}
    for line in output.splitlines():
        try:
            said = json.loads(line)
            reached = str(said["step"])
            versions |= {str(name): str(value) for name, value in said["versions"].items()}
        except (ValueError, LookupError, TypeError, AttributeError):
            continue  # a library that talks
    return Trial(reached, versions, code, error[-_KEPT:])
