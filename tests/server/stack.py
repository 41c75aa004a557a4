"""A real server process on a real socket, and what its data directory holds."""

from __future__ import annotations

import hashlib
import os
import queue
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

COMMAND = Path(sys.executable).with_name("splitfrozen-server")
_ADDRESS = re.compile(r"SplitFrozen \S+ on (\S+) ")
_START = 60.0  # seconds that a busy machine may take to start a server


class ServerProcess:
    """`splitfrozen-server serve` on a free port."""

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        limit: Callable[[], None] | None = None,
        worker: bool = False,
    ) -> None:
        self.data_dir = data_dir
        command: list[str] = [str(COMMAND), "serve", "--data-dir", str(data_dir), "--port", "0"]
        command += [*options, "--worker" if worker else "--no-worker"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=limit,
        )
        self.lines: list[str] = []
        self._found: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._wait_for_address()

    @property
    def admin_token(self) -> str:
        return (self.data_dir / "admin.token").read_text().strip()

    def client(self, token: str | None = None) -> httpx.Client:
        """An HTTP client with a token (default: the admin's); without TLS, which costs CPU."""
        secret = self.admin_token if token is None else token
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, verify=False)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; returns the exit status."""
        self.process.send_signal(number)
        return self._end()

    def kill(self) -> int:
        """SIGKILL; returns the exit status."""
        return self.stop(signal.SIGKILL)

    def _end(self) -> int:
        status = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if match := _ADDRESS.match(line):
                self._found.put(match[1])
        self._found.put(None)

    def _wait_for_address(self) -> str:
        url = self._found.get(timeout=_START)
        if url is None:
            status = self._end()
            raise RuntimeError(f"the server ended with {status}: {self.lines[-5:]}")
        return url


def run_command(
    *arguments: str, environment: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `splitfrozen-server` to its end."""
    return subprocess.run(
        [str(COMMAND), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
    )


def enrol(server: ServerProcess, name: str = "pi") -> dict[str, Any]:
    """Enrol a device; returns its object with the token."""
    with server.client() as admin:
        made = admin.post("/v1/tokens", json={"role": "enrol", "uses": 1}).json()
    with server.client(made["token"]) as enroller:
        answer = enroller.post("/v1/devices", json={"name": name})
    assert answer.status_code == 201, answer.text
    device: dict[str, Any] = answer.json()
    return device


def create_dataset(server: ServerProcess, name: str, **fields: Any) -> dict[str, Any]:
    """Create a dataset as admin: two closed labels unless told otherwise."""
    body = {
        "name": name,
        "task": "classification",
        "base_model": "tiny",
        "cut": 2,
        "labels": ["negative", "positive"],
        **fields,
    }
    with server.client() as admin:
        answer = admin.post(
            "/v1/activation_datasets", json={k: v for k, v in body.items() if v is not None}
        )
    assert answer.status_code == 201, answer.text
    dataset: dict[str, Any] = answer.json()
    return dataset


def put(
    client: httpx.Client,
    dataset: str,
    body: bytes,
    *,
    digest: str | None = None,
    encoding: str | None = None,
    wire: bytes | None = None,
) -> httpx.Response:
    """PUT a shard; `wire` is what really travels."""
    name = digest or hashlib.sha256(body).hexdigest()
    headers = {"Content-Encoding": encoding} if encoding else {}
    return client.put(
        f"/v1/activation_datasets/{dataset}/shards/{name}",
        content=body if wire is None else wire,
        headers=headers,
    )


def stored(data_dir: Path) -> dict[str, Any]:
    """Everything that uploads can change: files and rows."""
    files = sorted(
        str(path.relative_to(data_dir))
        for path in (data_dir / "blobs").rglob("*")
        if path.is_file()
    )
    return {"files": files, "rows": rows(data_dir, _TABLES)}


_TABLES = ("datasets", "labels", "shards", "examples", "devices", "tokens", "bundles")


def rows(data_dir: Path, tables: Sequence[str]) -> dict[str, list[Any]]:
    """All rows of some tables."""
    connection = sqlite3.connect(f"file:{data_dir / 'splitfrozen.db'}?mode=ro", uri=True)
    try:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in tables
        }
    finally:
        connection.close()


def blob_digests(data_dir: Path) -> set[str]:
    """Names of the stored blobs, each proven to hash to its name."""
    found = set()
    for path in (data_dir / "blobs").glob("??/*"):
        if path.suffix != ".part":
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, "half a blob"
            found.add(path.name)
    return found
