"""Folders that take a while to build: built once, kept outside the repository, safe to kill.

A folder appears under its name only when it is complete. Two processes that want it at once wait
for each other; what a killed one left behind is removed by the next.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Build = Callable[[Path], None]


class PlatformUnavailable(RuntimeError):
    """This machine cannot build or run a platform; the message says why and what would help."""


class PlatformFailure(RuntimeError):
    """A program ended with an error on a platform; the message holds the end of what it said."""


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Where built platforms are kept: the user's cache folder."""
    named = environ.get("XDG_CACHE_HOME")
    home = Path(named) if named and Path(named).is_absolute() else Path.home() / ".cache"
    return home / "splitfrozen" / "platforms"


def keep(name: str, build: Build, *, root: Path | None = None, progress: bool = True) -> Path:
    """The folder `name`, built by `build(folder)` unless it is there.

    The name must say everything that the content depends on. `progress` writes one line at the
    start and one at the end to standard error. What `build` raises goes through.
    """
    root = root or cache_root()
    folder = root / name
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with _only_one(root / f".{name}.lock"):
        if not folder.is_dir():
            _build(folder, build, progress)
    return folder


def _build(folder: Path, build: Build, progress: bool) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    started = time.monotonic()
    _say(progress, f"{folder.name}: building, once ...")
    try:
        build(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _say(progress, f"{folder.name}: {time.monotonic() - started:.0f} s, kept in {folder}")


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """The system frees the lock when its holder dies, so nothing has to be cleaned up."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _say(progress: bool, text: str) -> None:
    if progress:
        print(text, file=sys.stderr, flush=True)
