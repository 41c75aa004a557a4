"""The parent's side: contenders as processes that run when they are told to, one at a time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SAMPLE_SECONDS = 0.02
_QUIT_SECONDS = 10


class ContenderError(RuntimeError):
    """A contender that could not start or stopped; the message is its own last line."""


@dataclass
class Member:
    """One running contender."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    size: int = 0  # bytes of its files
    peak_private: int = 0  # bytes of anonymous memory, over loading and first runs
    private: int = 0  # bytes, after the first runs
    samples: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    def run(self, batch: int, times: int) -> tuple[float, float]:
        """CPU seconds and wall seconds of one run, averaged over `times`."""
        answer = self.ask({"run": batch, "times": times})
        return answer["cpu"] / times, answer["wall"] / times

    def hidden(self, batch: int, directory: Path) -> NDArray[np.float32]:
        """Its activations [batch, tokens, d]."""
        path = directory / f"{self.name}-{batch}.npy"
        self.ask({"hidden": str(path), "batch": batch})
        found: NDArray[np.float32] = np.load(path, allow_pickle=False)
        path.unlink()
        return found

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Send one order and wait for its answer. Raises ContenderError when there is none."""
        pipe = self.process.stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps(order) + "\n")
            pipe.flush()
        except BrokenPipeError:
            pass  # the answer says it
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """The next answer."""
        pipe = self.process.stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            self.process.wait()
            raise ContenderError(_last_words(self.log))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(_QUIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def start(name: str, arguments: Sequence[str], environ: dict[str, str], directory: Path) -> Member:
    """Start a worker, wait until it is ready, and let it run once for each batch size.

    Its memory is sampled meanwhile, not later, so that timed rounds are undisturbed.
    Raises ContenderError.
    """
    from benchmarks.speed.worker import BATCHES

    log = directory / f"{name}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environ,
        )
    member = Member(name, process, log)
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(member, done))
    watcher.start()
    try:
        member.size = member.hear()["bytes"]
        for batch in BATCHES:
            member.run(batch, 1)
    except ContenderError:
        member.stop()
        raise
    finally:
        done.set()
        watcher.join()
    member.private = _anonymous(process.pid)
    member.peak_private = max(member.peak_private, member.private)
    return member


def _watch(member: Member, done: threading.Event) -> None:
    while not done.wait(_SAMPLE_SECONDS):
        member.peak_private = max(member.peak_private, _anonymous(member.process.pid))


def _anonymous(pid: int) -> int:
    """Resident memory of a process that no file stands behind, bytes; 0 where unknown."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    said = [line for line in lines if line]
    return said[-1][:300] if said else "it ended without a word"
