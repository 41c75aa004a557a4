"""The device's own directory: who it is, its key, its outbox, its bundles. Private to its user."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from splitfrozen_edge.outbox.store import Outbox

KEY_SIZE = 32  # bytes


class StateError(Exception):
    """The state directory does not allow what was asked; the message says what to do."""


@dataclass(frozen=True)
class Enrolment:
    """What `enroll` stores."""

    server: str  # base URL
    device: str  # id that the server gave
    name: str
    token: str  # bearer token of role device
    ca_file: str | None = None  # certificate authority of a server on a LAN


class StateDirectory:
    """Paths and small files; makes directories with mode 0700 and files with 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def bundles(self) -> Path:
        """Where downloaded bundles live, one directory per id."""
        return self.path / "bundles"

    def outbox(self) -> Outbox:
        """Open the outbox; its file is made if it is missing."""
        self._make()
        path = self.path / "outbox.sqlite3"
        path.touch(mode=0o600)
        return Outbox(path)

    def key(self) -> bytes:
        """The key of example ids: 32 random bytes, made once, never sent."""
        path = self.path / "key"
        if not path.exists():
            self._make()
            self._write(path, secrets.token_bytes(KEY_SIZE))
        key = path.read_bytes()
        if len(key) != KEY_SIZE:
            raise StateError(
                f"{path} is damaged; remove it only if this device may send rows twice"
            )
        return key

    def enrolment(self) -> Enrolment:
        """Who this device is; StateError if it was never enrolled."""
        path = self.path / "device.json"
        if not path.exists():
            raise StateError(
                "this device is not enrolled: run splitfrozen-edge enroll --server URL --token …"
            )
        try:
            document = json.loads(path.read_text("utf-8"))
            return Enrolment(**{item.name: document[item.name] for item in fields(Enrolment)})
        except (ValueError, LookupError, TypeError):
            raise StateError(f"{path} is damaged: enroll this device again") from None

    def is_enrolled(self) -> bool:
        """Whether `enrolment` has something to read."""
        return (self.path / "device.json").exists()

    def store_enrolment(self, enrolment: Enrolment) -> None:
        """Keep who this device is, readable by its user only."""
        self._make()
        text = json.dumps(asdict(enrolment), indent=2) + "\n"
        self._write(self.path / "device.json", text.encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for one push; StateError if another process does."""
        self._make()
        with (self.path / "lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateError(f"another push is running with {self.path}") from None
            yield

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _write(self, path: Path, data: bytes) -> None:
        """Write durably: the file has all bytes or is not there."""
        part = path.with_name(path.name + ".part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a rename in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
