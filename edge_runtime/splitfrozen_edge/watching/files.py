"""Files of a watched path as they are now, and how one is recognised again. Reads; keeps nothing.

A name is no identity: logs are renamed, editors replace. A file is (device, inode) and a mark, the
hash of the first and the last bytes of the part that was read: a file that was cut, or another one
under a reused inode, has another mark.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

LINES = frozenset({".jsonl", ".ndjson"})  # followed line by line
WHOLE = frozenset({".csv", ".tsv"})  # read again as a whole when they change
TEXTS = frozenset({".txt"})  # one row each
_MARKED = 1024  # bytes at either end of what was read


@dataclass(frozen=True)
class Seen:
    """A file at the moment of a scan; its sizes in bytes."""

    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int

    @property
    def identity(self) -> tuple[int, int]:
        """What stays when a file is renamed."""
        return self.device, self.inode

    @property
    def signature(self) -> tuple[int, int]:
        """What changes when a file is written."""
        return self.size, self.mtime_ns


@dataclass
class Scan:
    """All watched files, each inode once, and what could not be looked at."""

    files: list[Seen] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)  # path -> reason
    unread: dict[str, int] = field(default_factory=dict)  # ending -> files of a kind not asked for
    notes: list[str] = field(default_factory=list)  # what became of files since the last scan


def kind_of(path: str) -> str:
    """The ending that says how a file is read, in lower case."""
    return os.path.splitext(path)[1].lower()


def scan(root: Path, kinds: Collection[str]) -> Scan:
    """Look at a file, or at all files below a folder whose ending is in `kinds`.

    Hidden files and folders are left out: programs write unfinished files under such names. A link
    to a file is that file; a link to a folder is not followed, so that a circle cannot be.
    """
    found = Scan()
    try:
        info = root.stat()
    except FileNotFoundError:
        found.problems[str(root)] = "is not there yet"
        return found
    except OSError as error:
        found.problems[str(root)] = _why(error)
        return found
    if stat.S_ISDIR(info.st_mode):
        _scan_folder(str(root), kinds, found)
    elif not stat.S_ISREG(info.st_mode):
        found.problems[str(root)] = "is neither a file nor a folder"
    else:
        found.files.append(_seen(str(root), info))
    known: set[tuple[int, int]] = set()
    once = []
    for item in sorted(found.files, key=lambda item: item.path):
        if item.identity not in known:
            known.add(item.identity)
            once.append(item)
    found.files = once
    return found


def _scan_folder(folder: str, kinds: Collection[str], found: Scan) -> None:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    _scan_entry(entry, kinds, found)
    except OSError as error:
        found.problems[folder] = _why(error)


def _scan_entry(entry: os.DirEntry[str], kinds: Collection[str], found: Scan) -> None:
    if not _is_text(entry.name):
        found.problems[ascii(entry.path)] = "has a name that is not UTF-8; rename it"
        return
    try:
        if entry.is_dir(follow_symlinks=False):
            _scan_folder(entry.path, kinds, found)
        elif kind_of(entry.name) in kinds and entry.is_file():
            found.files.append(_seen(entry.path, entry.stat()))
        elif not _is_rotated_name(entry.name) and entry.is_file():
            kind = kind_of(entry.name)
            found.unread[kind] = found.unread.get(kind, 0) + 1
    except FileNotFoundError:
        return  # renamed or deleted during the scan: the next one sees what became of it
    except OSError as error:
        found.problems[entry.path] = _why(error)


def look(path: str) -> Seen | None:
    """One file as it is now; None if there is none."""
    try:
        info = os.stat(path)
    except OSError:
        return None
    return _seen(path, info) if stat.S_ISREG(info.st_mode) else None


def siblings(path: str) -> list[Seen]:
    """All plain files of the folder of `path`, whatever their ending: rotation appends one."""
    try:
        with os.scandir(os.path.dirname(path) or ".") as entries:
            names = [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]
    except OSError:
        return []
    return [item for item in map(look, sorted(names)) if item is not None]


def mark(descriptor: int, offset: int) -> bytes:
    """Hash of the first and the last bytes before `offset`; empty if nothing was read."""
    if offset == 0:
        return b""
    size = min(offset, _MARKED)
    ends = os.pread(descriptor, size, 0) + os.pread(descriptor, size, offset - size)
    return hashlib.sha256(ends).digest()[:16]


def holds(descriptor: int, offset: int, expected: bytes) -> bool:
    """Whether a file still begins with the `offset` bytes that were read of it."""
    return os.fstat(descriptor).st_size >= offset and mark(descriptor, offset) == expected


def _seen(path: str, info: os.stat_result) -> Seen:
    return Seen(path, info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_rotated_name(name: str) -> bool:
    """a.jsonl.1, a.jsonl-2026: it was read under its first name, or is looked at by `Rotation`."""
    return any(kind in name.lower() for kind in LINES | WHOLE)


def _why(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"
