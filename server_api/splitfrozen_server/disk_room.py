"""Room on the disk, promised before it is used: many bodies at once do not fill what one may."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from splitfrozen.errors import RefusedError


class DiskRoom:
    """Bytes of one disk that are promised and not yet written. Safe in threads."""

    def __init__(self, directory: Path, keep_free: int) -> None:
        self._directory = directory
        self._keep_free = keep_free  # bytes that nobody is promised
        self._lock = threading.Lock()
        self._promised = 0

    def check(self, needed: int) -> None:
        """Raise RefusedError `insufficient_storage` where `needed` bytes would not fit."""
        free = shutil.disk_usage(self._directory).free
        if free < self._keep_free + needed:
            raise RefusedError(
                "insufficient_storage",
                f"the server's disk has {free} bytes left; this needs {needed} and keeps "
                f"{self._keep_free} free",
            )

    @contextlib.contextmanager
    def promise(self, size: int) -> Iterator[Callable[[int], None]]:
        """Keep room for `size` bytes; tell the yielded function what has been written of them.

        Raises RefusedError `insufficient_storage` where they do not fit beside other promises.
        """
        with self._lock:
            self.check(self._promised + size)
            self._promised += size
        left = size

        def wrote(count: int) -> None:
            nonlocal left
            with self._lock:
                count = min(count, left)
                left -= count
                self._promised -= count

        try:
            yield wrote
        finally:
            wrote(left)
