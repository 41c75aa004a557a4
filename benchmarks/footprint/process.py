"""One process from outside: its wall time, its CPU-seconds, the most memory it had."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_EVERY = 0.005  # seconds between two looks at its memory
_TICKS = os.sysconf("SC_CLK_TCK")


class ProcessError(RuntimeError):
    """A measured process failed; the message has the end of what it said."""


@dataclass
class Seen:
    """What was seen of a process. Memory in bytes: the largest of all looks."""

    output: str = ""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0  # user and system, of all its threads, from start to end
    rss: int = 0
    anonymous: int = 0
    looks: int = field(default=0)


def watch(command: Sequence[str], *, memory: bool = False) -> Seen:
    """Run a command to its end. Raises ProcessError if it fails.

    With `memory`, looks at /proc/PID/smaps_rollup every few milliseconds: that costs the process
    time, so do not read its times then.
    """
    seen = Seen()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, stdin=subprocess.DEVNULL)
        if memory:
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                _look(process.pid, seen)
                time.sleep(_EVERY)
        _, status, usage = os.wait4(process.pid, 0)
        seen.wall_seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        seen.cpu_seconds = usage.ru_utime + usage.ru_stime
        output.seek(0)
        seen.output = output.read().decode()
        if process.returncode:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()[-8:]
            line = " ".join(command)
            raise ProcessError(f"`{line}` ended with {process.returncode}: " + "\n".join(said))
    return seen


def _look(pid: int, seen: Seen) -> None:
    found = parse_rollup(_read(Path(f"/proc/{pid}/smaps_rollup")))
    if found:
        seen.looks += 1
        seen.rss = max(seen.rss, found.get("Rss", 0))
        seen.anonymous = max(seen.anonymous, found.get("Anonymous", 0))


def parse_rollup(text: str) -> dict[str, int]:
    """Name -> bytes of /proc/PID/smaps_rollup. Pure."""
    rows = (line.split() for line in text.splitlines())
    return {row[0][:-1]: int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process so far."""
    return parse_cpu(_read(Path(f"/proc/{pid}/stat")))


def parse_cpu(stat: str) -> float:
    """Seconds from the text of /proc/PID/stat, whose second field may hold spaces. Pure."""
    words = stat.rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICKS


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
