"""The device's own directory: who it is, its key, its outbox, its bundles. Private to its user."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TextIO

from splitfrozen_edge.outbox.store import Outbox

KEY_SIZE = 32  # bytes
FORGETTING = "forgetting"  # is there while `forget` is at work
_AUTHORITY = "ca-"  # copies of trusted certificates


class StateError(Exception):
    """The state directory does not allow what was asked; the message says what to do."""


class BusyError(StateError):
    """Another process works with the directory; the same command succeeds when it is done."""


@dataclass(frozen=True)
class Enrolment:
    """What `enroll` stores."""

    server: str  # base URL
    device: str  # id that the server gave
    name: str
    token: str  # bearer token of role device
    ca_file: str | None = None  # PEM of what is trusted; a copy in the state directory
    pin: str | None = None  # fingerprint that ca_file was compared with, sha256:…
    bundle_key: str | None = None  # Ed25519 key that signs the server's bundles, hex
    origin: Path | None = field(default=None, compare=False)  # file that it was read from


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
            return _parse_enrolment(path)
        except (ValueError, LookupError, TypeError):
            raise StateError(f"{path} is damaged: enroll this device again") from None

    def is_enrolled(self) -> bool:
        """Whether `enrolment` has something to read."""
        return (self.path / "device.json").exists()

    def store_enrolment(self, enrolment: Enrolment) -> None:
        """Keep who this device is, readable by its user only."""
        self._make()
        document = asdict(enrolment)
        del document["origin"]
        if enrolment.ca_file is not None:  # ours by its name: the directory may move
            ca_file = Path(enrolment.ca_file)
            ours = ca_file.parent.absolute() == self.path.absolute()
            document["ca_file"] = ca_file.name if ours else str(ca_file)
        text = json.dumps(document, indent=2) + "\n"
        self._write(self.path / "device.json", text.encode())

    def store_authority(self, pem: bytes) -> str:
        """Keep a copy of certificates to trust; the path of the copy. Stored twice, it is one."""
        self._make()
        path = self.path / f"{_AUTHORITY}{hashlib.sha256(pem).hexdigest()[:16]}.pem"
        self._write(path, pem)
        return str(path)

    def drop_authority(self, ca_file: str | None) -> None:
        """Remove a copy that no enrolment names any more; files of other people stay."""
        path = Path(ca_file or "")
        if path.name.startswith(_AUTHORITY) and path.parent.absolute() == self.path.absolute():
            path.unlink(missing_ok=True)

    @contextmanager
    def locked(self, purpose: str = "push", *, allow_forgetting: bool = False) -> Iterator[None]:
        """Hold the directory for one command, `purpose`; BusyError if another process does.

        StateError if a `forget` was cut off, unless `allow_forgetting`: what waits would be sent.
        """
        self._make()
        with (self.path / "lock").open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(self._busy(stream, purpose)) from None
            stream.truncate(0)
            stream.write(f"{purpose} {os.getpid()}\n")
            stream.flush()
            if not allow_forgetting and (self.path / FORGETTING).exists():
                raise StateError(
                    "a `splitfrozen-edge forget` was cut off: run it again to finish it (with "
                    "--local-only if the server is out of reach)"
                )
            yield

    def _busy(self, stream: TextIO, wanted: str) -> str:
        """Who has the lock, as it wrote there."""
        stream.seek(0)
        purpose, _, process = stream.read(200).strip().partition(" ")
        if not process.isdigit():
            return f"another push is running with {self.path}"
        advice = "wait for it, or stop it first"
        if purpose == "run":
            advice = "stop it first, or let it do the work (splitfrozen-edge join)"
            if wanted == "forget":
                advice = "stop it first (sudo systemctl stop splitfrozen-edge, or Ctrl-C there)"
        return f"splitfrozen-edge {purpose} (process {process}) works with {self.path}: {advice}"

    def begin_forgetting(self) -> bool:
        """From here on nothing is pushed until `end_forgetting`, over crashes too.

        Whether an earlier `forget` was cut off.
        """
        self._make()
        resumed = (self.path / FORGETTING).exists()
        self._write(self.path / FORGETTING, b"")
        return resumed

    def end_forgetting(self) -> None:
        """What was to be forgotten is gone, or nothing was touched."""
        (self.path / FORGETTING).unlink(missing_ok=True)
        sync_directory(self.path)

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


def _parse_enrolment(path: Path) -> Enrolment:
    """Fields that older versions did not write have their defaults."""
    document = json.loads(path.read_text("utf-8"))
    found = {
        item.name: document[item.name]
        for item in fields(Enrolment)
        if item.name in document or item.default is MISSING
    }
    if found.get("ca_file"):
        found["ca_file"] = str(path.parent.absolute() / found["ca_file"])
    return Enrolment(**{**found, "origin": path})


def sync_directory(path: Path) -> None:
    """Make a rename in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
