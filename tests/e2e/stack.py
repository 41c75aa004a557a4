"""A real server with its worker, and real devices: processes, sockets, files; nothing pretended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of our commands to its end; its output goes into the failure message."""
    done = subprocess.run(
        [BIN / program, *map(str, arguments)], capture_output=True, text=True, timeout=580
    )
    if check and done.returncode:
        raise AssertionError(
            f"{program} {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done


def export(model: Path, cut: int, output: Path, *options: object) -> Path:
    run("splitfrozen-export", "--model", model, "--cut", cut, "--output", output, *options)
    return output


class Stack:
    """One server on a free port over a data directory; may be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data_dir = directory / "state"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: object) -> Stack:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(BIN / "splitfrozen-server", "serve", "--data-dir", self.data_dir),
                    *("--port", str(self.port), *map(str, options)),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_until_ready()
        return self

    def wait_until_ready(self, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the server stopped:\n{self.log.read_text()}")
            try:
                if httpx.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"the server is not ready:\n{self.log.read_text()}")

    def kill(self) -> None:
        """SIGKILL to the server and everything it started, as a power cut would."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def admin(self, *arguments: object) -> Any:
        """A management command; its JSON output."""
        options = ["--server", self.url, "--data-dir", self.data_dir, "--format", "json"]
        text = run("splitfrozen-server", *arguments, *options).stdout
        return json.loads(text) if text.strip() else None

    def device(self, name: str) -> Device:
        token = self.admin("tokens", "create", "--role", "enrol", "--uses", 1)["token"]
        device = Device(self.directory / f"device-{name}")
        device.run("enroll", "--server", self.url, "--token", token, "--name", name)
        return device


class Device:
    """One device: its own state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def command(self, *arguments: object) -> list[str]:
        name, *rest = map(str, arguments)
        return [str(BIN / "splitfrozen-edge"), name, "--state-dir", str(self.state), *rest]

    def run(self, *arguments: object) -> str:
        program, *rest = self.command(*arguments)
        return run(Path(program).name, *rest).stdout

    def push(self, bundle: Path, dataset: str, data: Path, *options: object) -> Any:
        text = self.run(
            "push", "--bundle", bundle, "--dataset", dataset, "--data", data,
            "--format", "json", *options,
        )  # fmt: skip
        return json.loads(text)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path
