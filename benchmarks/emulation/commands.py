"""Run one command of the machine and turn its failure into one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.emulation.kept import PlatformFailure, PlatformUnavailable

_KEPT = 12  # last lines of what a failed command said
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")  # of Debian and its kin


def need(program: str, how: str) -> str:
    """The path of a program; PlatformUnavailable with `how` to get it where it is missing."""
    path = shutil.which(program)
    if path is None:
        raise PlatformUnavailable(f"{program} is not installed: {how}")
    return path


def fetch(command: Sequence[str | Path], what: str) -> str:
    """Run a command that downloads `what`; PlatformUnavailable when it fails."""
    done = _run(command, _trusting(os.environ), None)
    if done.returncode:
        raise PlatformUnavailable(
            f"cannot fetch {what} ({Path(command[0]).name} ended with {done.returncode}); check "
            f"the network and the machine's package mirrors:\n{_end(done)}"
        )
    return done.stdout


def run(
    command: Sequence[str | Path],
    *,
    where: str,
    environ: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> str:
    """What a program says on standard output; PlatformFailure when it fails or takes too long."""
    try:
        done = _run(command, environ, seconds)
    except subprocess.TimeoutExpired as error:
        raise PlatformFailure(f"{where}: not done after {seconds:.0f} s") from error
    if done.returncode:
        raise PlatformFailure(f"{where} ended with {done.returncode}:\n{_end(done)}")
    return done.stdout


def _trusting(environ: Mapping[str, str]) -> Mapping[str, str]:
    """With the machine's own authorities for Node, which else knows only those built into it.

    Behind a network's own proxy or mirror, npm would fetch nothing.
    """
    if "NODE_EXTRA_CA_CERTS" in environ or not _AUTHORITIES.is_file():
        return environ
    return {**environ, "NODE_EXTRA_CA_CERTS": str(_AUTHORITIES)}


def _run(
    command: Sequence[str | Path], environ: Mapping[str, str] | None, seconds: float | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        env=None if environ is None else dict(environ),
        timeout=seconds,
    )


def _end(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stdout + done.stderr).strip().splitlines()
    return "\n".join(lines[-_KEPT:])
