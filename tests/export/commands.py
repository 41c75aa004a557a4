"""Run splitfrozen-export in this process or in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from splitfrozen_export.cli import main

PROGRAM = "from splitfrozen_export.cli import main; main()"


def run(*arguments: object) -> int:
    """The command in this process; returns its exit code."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["splitfrozen-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
    signal.signal(signal.SIGTERM, before)
    return int(left.value.code or 0)


def start(
    *arguments: object, program: str = PROGRAM, **environment: object
) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(directory: Path, pattern: str, process: subprocess.Popen[str]) -> Path:
    """The first path that matches, as soon as the running export has made it."""
    while process.poll() is None:
        if found := next(directory.glob(pattern), None):
            return found
        time.sleep(0.002)
    raise AssertionError(f"the export ended before it made {pattern}: {process.communicate()[1]}")
