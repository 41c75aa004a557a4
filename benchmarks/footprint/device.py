"""One device in the clean environment and the real server that it speaks to."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.footprint.process import ProcessError, Seen, cpu_seconds, watch
from benchmarks.footprint.rows import LABELS
from benchmarks.walkthrough.commands import Server

BASE = "gpt2-shape"  # name of the base model on the server
# Seconds until a daemon has sent what was there and looks at a resting folder as rarely as it will.
_SETTLE = 90.0
_GRACE = 20.0  # seconds that a daemon has to end


@dataclass(frozen=True)
class Device:
    """An enrolled `splitfrozen-edge`."""

    command: Path  # splitfrozen-edge of the clean environment
    state: Path
    bundle: Path

    @property
    def python(self) -> Path:
        """The interpreter beside the command."""
        return self.command.with_name("python")

    def run(self, verb: str, *words: str, memory: bool = False) -> Seen:
        """One command to its end, observed."""
        head = [str(self.command), verb, "--state-dir", str(self.state)]
        return watch([*head, *words], memory=memory)

    def inside(self, program: str, *words: str) -> Seen:
        """One of the small programs, in the clean environment."""
        path = Path(__file__).parent / "inside" / f"{program}.py"
        return watch([str(self.python), str(path), *words])

    def push(self, data: Path, dataset: str, *words: str, memory: bool = False) -> Seen:
        """Push a labelled file."""
        where = ("--bundle", str(self.bundle), "--dataset", dataset, "--data", str(data))
        return self.run("push", *where, "--format", "json", *words, memory=memory)

    def has(self, verb: str, option: str = "--help") -> bool:
        """Whether a command and its option exist."""
        try:
            return option in self.run(verb, "--help").output
        except ProcessError:
            return False

    def threads(self) -> int:
        """The number that the device measured for its bundle."""
        known: dict[str, Any] = json.loads((self.state / "threads.json").read_text())
        return int(list(known.values())[-1]["threads"])

    def idle(self, data: Path, dataset: str, seconds: float) -> float:
        """Share of a core that `run` uses behind its work: one dataset joined, nothing new."""
        where = ("--data", str(data), "--bundle", str(self.bundle))
        self.run("join", dataset, *where)
        command = [str(self.command), "run", "--state-dir", str(self.state)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(_SETTLE)
            spent, started = cpu_seconds(process.pid), time.monotonic()
            time.sleep(seconds)
            spent, passed = cpu_seconds(process.pid) - spent, time.monotonic() - started
            if process.poll() is not None:
                raise ProcessError(f"`{' '.join(command)}` ended with {process.returncode}")
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(_GRACE)
        known = json.loads(self.run("status", "--format", "json").output)["datasets"]
        if not any(item["done_examples"] for item in known):
            raise ProcessError(f"`{' '.join(command)}` sent nothing of {data}")
        return spent / passed


def enrol(server: Server, command: Path, state: Path, bundle: Path) -> Device:
    """Make one device known to a server that has the bundle."""
    words = ("--role", "enrol", "--uses", "1", "--expires", "1h")
    token = server.manage("tokens", "create", *words)["token"]
    device = Device(command, state, bundle)
    device.run("enroll", "--server", server.url, "--token", token, "--name", "footprint")
    return device


def publish(server: Server, model: Path, bundle: Path, cut: int) -> None:
    """Give a fresh server the base model and the bundle."""
    server.manage("models", "add", BASE, str(model))
    server.manage("bundles", "add", str(bundle))


def make_dataset(server: Server, name: str, cut: int) -> None:
    """A closed classification dataset."""
    what = ("--task", "classification", "--labels", ",".join(LABELS))
    server.manage("datasets", "create", name, "--model", BASE, "--cut", str(cut), *what)
