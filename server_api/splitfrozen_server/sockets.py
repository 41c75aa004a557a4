"""Where the server listens: the public TCP socket, and unix sockets that only its user reaches."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAX_PATH = 100  # bytes; the kernel's limit for unix sockets is 104 (macOS) or 108 (Linux)
_NAMES = ("control.sock", "worker.sock")


@contextmanager
def socket_directory(data_dir: Path) -> Iterator[Path]:
    """A directory, mode 0700, for the unix sockets: `data_dir/run`, or a temporary one.

    A deep data directory makes a path that the kernel refuses; then a temporary directory serves.
    Sockets that an earlier server left are removed, before and after.
    """
    directory = data_dir.absolute() / "run"
    is_temporary = max(len(bytes(directory / name)) for name in _NAMES) >= _MAX_PATH
    if is_temporary:
        directory = Path(tempfile.mkdtemp(prefix="splitfrozen-"))
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    _remove_sockets(directory)
    try:
        yield directory
    finally:
        _remove_sockets(directory)
        if is_temporary:
            shutil.rmtree(directory, ignore_errors=True)


def bind(host: str, port: int) -> socket.socket:
    """The public socket; OSError if the address is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def _remove_sockets(directory: Path) -> None:
    for name in _NAMES:
        with contextlib.suppress(OSError):
            (directory / name).unlink(missing_ok=True)
