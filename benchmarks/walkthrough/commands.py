"""The main job's commands as a person types them: typed calls that return what was printed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.walkthrough.children import POLL, Child, Children, CommandError, OnLine

START_LIMIT = 60.0  # seconds for the server to listen


def command_path(name: str) -> str:
    """The installed command beside this Python, else on PATH."""
    beside = os.path.dirname(sys.executable)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        raise CommandError(
            f"{name} is not installed; run `make install`, or pip install -e '.[dev]'"
        )
    return found


def export_bundle(
    children: Children, model: str, cut: int, bundle: Path, on_line: OnLine
) -> dict[str, Any]:
    """splitfrozen-export; returns its JSON summary."""
    command = [command_path("splitfrozen-export"), "--model", model, "--cut", str(cut)]
    command += ["--precision", "int8", "--output", str(bundle), "--format", "json"]
    summary: dict[str, Any] = json.loads(children.run("export", command, on_line))
    return summary


@dataclass(frozen=True)
class Server:
    """A running `splitfrozen-server serve`, and its management commands."""

    children: Children
    child: Child
    url: str
    data_dir: Path

    @classmethod
    def start(cls, children: Children, data_dir: Path) -> Server:
        """Serve on a free port and wait until it listens. Raises CommandError."""
        port = _free_port()
        command = [command_path("splitfrozen-server"), "serve"]
        command += ["--data-dir", str(data_dir), "--port", str(port)]
        child = children.start("server", command)
        _wait_until_listening(child, port)
        threading.Thread(target=_discard_output, args=(child,), daemon=True).start()
        return cls(children, child, f"http://127.0.0.1:{port}", data_dir)

    def manage(self, *words: str) -> Any:
        """Run one management command and return its JSON."""
        return json.loads(self.children.run("-".join(words[:2]), self._command(*words)))

    def follow(self, job: str, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """`jobs events --follow`: call `on_event` for each until the job ends; returns the job."""
        child = self.children.start("events", self._command("jobs", "events", job, "--follow"))
        assert child.process.stdout is not None
        with child.process.stdout as lines:
            for line in lines:
                on_event(json.loads(line))
        if child.process.wait() != 0:
            raise child.failure()
        ended: dict[str, Any] = self.manage("jobs", "get", job)
        return ended

    def stop(self) -> None:
        """End the server as Ctrl-C does; its state stays."""
        self.children.end_one(self.child)

    def _command(self, *words: str) -> list[str]:
        return [
            command_path("splitfrozen-server"),
            *words,
            *("--server", self.url),
            *("--data-dir", str(self.data_dir)),
            *("--format", "json"),
        ]


@dataclass(frozen=True)
class Edge:
    """`splitfrozen-edge` with a state directory of its own: one device."""

    children: Children
    name: str
    state_dir: Path

    def enroll(self, server: str, token: str) -> None:
        """Make the device known to the server."""
        self._run("enroll", "--server", server, "--token", token, "--name", self.name)

    def push(self, bundle: Path, dataset: str, data: Path) -> dict[str, Any]:
        """Push a file and return the report."""
        where = ("--bundle", str(bundle), "--dataset", dataset, "--data", str(data))
        report: dict[str, Any] = json.loads(self._run("push", *where, "--format", "json"))
        return report

    def predict(self, bundle: Path, model: str, data: Path) -> list[str]:
        """Labels of a file's texts by split inference, in the order of the file."""
        where = ("--bundle", str(bundle), "--model", model, "--data", str(data))
        found = json.loads(self._run("predict", *where, "--format", "json"))
        return [item["label"] for item in found["data"]]

    def _run(self, verb: str, *words: str) -> str:
        command = [command_path("splitfrozen-edge"), verb, "--state-dir", str(self.state_dir)]
        return self.children.run(f"{self.name}-{verb}", [*command, *words])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_listening(child: Child, port: int) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and child.process.poll() is None:
        # The socket is there before the first token is written; an answer comes after it.
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1),
        ):
            return
        time.sleep(POLL)
    raise child.failure()


def _discard_output(child: Child) -> None:
    """A full pipe would stop the server."""
    assert child.process.stdout is not None
    with contextlib.suppress(ValueError), child.process.stdout as stream:
        while stream.read(65536):
            pass
