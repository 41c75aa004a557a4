"""Child processes that never outlive the demo. Knows nothing about what they do.

Each child leads a process group of its own: a Ctrl-C reaches the demo alone, which then ends the
groups in order and waits for them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

GRACE = 8.0  # seconds from SIGTERM to SIGKILL
POLL = 0.1  # seconds between looks at a child
# Devices and server share this machine here. Training threads that spin while they wait for each
# other (OpenMP's default) slow a step twelvefold as soon as anything else wants a core.
ENVIRON = {"OMP_WAIT_POLICY": "PASSIVE"}
TAIL = 12  # lines of its log that an error shows

OnLine = Callable[[str], None]


class CommandError(RuntimeError):
    """A command failed; the message has the command, its exit code and the end of its log."""


@dataclass(frozen=True)
class Child:
    """One running command. Its standard error goes to `log`."""

    command: tuple[str, ...]
    process: subprocess.Popen[bytes]
    log: Path

    def failure(self) -> CommandError:
        """What to raise when the command did not end well."""
        shown = "\n".join(f"    {line}" for line in read_lines(self.log)[-TAIL:])
        line = " ".join(self.command)
        return CommandError(f"`{line}` ended with {self.process.poll()}:\n{shown}")


class Children:
    """Starts commands and ends whatever still runs when its `with` block is left."""

    def __init__(self, logs: Path, directory: Path) -> None:
        self._logs = logs
        self._directory = directory  # in which the commands run
        self._children: list[Child] = []
        self._ended = False
        self._lock = threading.Lock()
        # Ctrl-C strikes the main thread only: a start in this one is never cut in half.
        self._starter = ThreadPoolExecutor(1)
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self.end()
        except KeyboardInterrupt:  # a second one: no more patience
            self._kill()
            raise

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a command; its standard output is the caller's to read."""
        try:
            waiting = self._starter.submit(self._start, name, command)
        except RuntimeError:  # shut down
            raise CommandError(f"{name} was not started: the demo is ending") from None
        return waiting.result()

    def _start(self, name: str, command: Sequence[str]) -> Child:
        with self._lock:
            if self._ended:
                raise CommandError(f"{name} was not started: the demo is ending")
            log = self._logs / f"{len(self._children):02d}-{name}.log"
            with log.open("wb") as errors:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=self._directory,
                    env={**ENVIRON, **os.environ},
                    start_new_session=True,
                )
            child = Child(tuple(command), process, log)
            self._children.append(child)
        return child

    def run(self, name: str, command: Sequence[str], on_line: OnLine | None = None) -> str:
        """Run a command to its end and return its standard output.

        `on_line` gets the newest line of its standard error as it works. Raises CommandError.
        """
        child = self.start(name, command)
        output: list[bytes] = []
        reader = threading.Thread(target=lambda: output.append(_drain(child)), daemon=True)
        reader.start()
        while reader.is_alive():
            reader.join(POLL)
            lines = read_lines(child.log) if on_line else []
            if on_line and lines:
                on_line(lines[-1])
        if child.process.wait() != 0:
            raise child.failure()
        return output[0].decode()

    def end(self) -> None:
        """End every command that is left, the newest first; no other can be started."""
        with self._lock:
            self._ended = True
            left = self._children[::-1]
        _end([child for child in left if child.process.poll() is None])
        self._starter.shutdown()

    def _kill(self) -> None:
        for child in self._children:
            if child.process.poll() is None:
                _signal_group(child, signal.SIGKILL)

    def end_one(self, child: Child) -> None:
        """End one command."""
        if child.process.poll() is None:
            _end([child])


def _end(running: Sequence[Child]) -> None:
    """Ask the groups to end; kill what does not in time."""
    for child in running:
        _signal_group(child, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for child in running:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal_group(child, signal.SIGKILL)
            child.process.wait()
        if child.process.stdout is not None:
            child.process.stdout.close()


def read_lines(log: Path) -> list[str]:
    """The lines of a log so far that are not blank."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]


def _drain(child: Child) -> bytes:
    assert child.process.stdout is not None
    try:
        with child.process.stdout as stream:
            return stream.read()
    except ValueError:  # closed: the demo is ending
        return b""


def _signal_group(child: Child, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.process.pid, number)
