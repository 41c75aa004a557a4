"""Weights in this processor's own layout, kept on disk and mapped: little memory at full speed.

One directory per graph, named by everything that the layout depends on. It appears whole or not at
all, is checked against its own hashes before every use, and is made again when it does not fit:
what another machine, processor or runtime wrote is never loaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from splitfrozen.bundle import hash_file
from splitfrozen_edge.state import sync_directory

_INDEX = "prepacked.json"
_FORMAT = 1
_KEEP = 4  # graphs; each takes about 1.4 times its weights
_SPARE = 64 * 1024 * 1024  # bytes of disk that are left alone
_GROWTH = 1.6  # times the weights, at most, in what was seen

Save = Callable[[Path, Path], None]  # (graph, directory to write into)


@dataclass(frozen=True)
class Layout:
    """What a prepacked graph depends on."""

    bundle: str  # id
    graph: str  # file name in the bundle
    processor: str  # `processor_key`
    runtime: str  # name and version of ONNX Runtime

    def name(self) -> str:
        """Name of the directory: 32 hex digits."""
        text = json.dumps([_FORMAT, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class PrepackedError(Exception):
    """There is none and none can be made; the message says why."""


class PrepackedCache:
    """The prepacked graphs of one state directory."""

    def __init__(self, directory: Path, save: Save) -> None:
        """`save` writes a prepacked graph and its weights into a directory."""
        self._directory = directory
        self._save = save

    def find(self, layout: Layout, source: Path, weights: int) -> Path:
        """Path of the prepacked graph of `source`, made if it is missing or damaged.

        `weights`: bytes of the source. Raises PrepackedError.
        """
        place = self._directory / layout.name()
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                if not is_whole(place, layout):
                    self._make(place, layout, source, weights)
                os.utime(place)
        except OSError as error:
            raise PrepackedError(f"{self._directory}: {error.strerror or error}") from None
        return place / source.name

    def _make(self, place: Path, layout: Layout, source: Path, weights: int) -> None:
        self._clear(keep=layout)
        needed = int(weights * _GROWTH) + _SPARE
        if shutil.disk_usage(self._directory).free < needed:
            raise PrepackedError(f"{self._directory} has less than {needed / 1e6:.0f} MB free")
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self._directory))
        try:
            try:
                self._save(source, part)
            except Exception as error:  # whatever it is, the bundle itself can still be used
                raise PrepackedError(f"the layout cannot be written: {error}") from None
            _seal(part, layout)
            part.replace(place)
            sync_directory(self._directory)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _clear(self, *, keep: Layout) -> None:
        """Remove unfinished, foreign and damaged graphs, and the least used above the limit."""
        usable = []
        for path in self._directory.iterdir():
            if not path.is_dir():
                continue
            if _is_sibling(path, keep):
                usable.append(path)
            else:
                shutil.rmtree(path, ignore_errors=True)
        usable.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in usable[_KEEP - 1 :]:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._directory / "lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def is_whole(place: Path, layout: Layout) -> bool:
    """Whether a directory holds exactly this layout and every byte of it."""
    try:
        document = json.loads((place / _INDEX).read_text("utf-8"))
        files = document["files"]
        if document["layout"] != asdict(layout) or layout.graph not in files:
            return False
        if {path.name for path in place.iterdir()} != {_INDEX, *files}:
            return False
        return all(_matches(place / name, *entry) for name, entry in files.items())
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _matches(path: Path, digest: str, size: int) -> bool:
    plain = path.is_file() and not path.is_symlink()
    return plain and path.stat().st_size == size and hash_file(path) == digest


def _is_sibling(place: Path, layout: Layout) -> bool:
    """Whether a directory is another graph's, of the same processor and runtime."""
    try:
        found = Layout(**json.loads((place / _INDEX).read_text("utf-8"))["layout"])
    except (OSError, ValueError, LookupError, TypeError):
        return False
    same = (found.processor, found.runtime) == (layout.processor, layout.runtime)
    return same and place.name == found.name() != layout.name()


def _seal(part: Path, layout: Layout) -> None:
    """Write the index of what is there; everything is on the disk afterwards."""
    files = {path.name: [hash_file(path), path.stat().st_size] for path in part.iterdir()}
    text = json.dumps({"layout": asdict(layout), "files": files}, indent=2) + "\n"
    (part / _INDEX).write_text(text, "utf-8")
    for path in part.iterdir():
        path.chmod(0o600)
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())
    sync_directory(part)
