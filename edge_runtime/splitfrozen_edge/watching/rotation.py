"""Which file of a scan is which file of the ledger: new, grown, renamed, cut, replaced, gone.

What a rotation carried away is looked for once beside the old name, under any name: a renamed file
and a copy both begin with what was read, so the rows that came last before it are not lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from splitfrozen_edge.watching.files import WHOLE, Scan, Seen, holds, kind_of, look, siblings
from splitfrozen_edge.watching.follow import Followed
from splitfrozen_edge.watching.ledger import Ledger, Position

Identity = tuple[int, int]  # device, inode
LINGER = 600.0  # seconds that a renamed file is followed after its last change


class Rotation:
    """Keeps `files` and the ledger in step with what is on disk."""

    def __init__(
        self,
        ledger: Ledger,
        watch: int,
        files: dict[Identity, Followed],
        clock: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._watch = watch
        self._files = files
        self._clock = clock

    def settle(self, root: Path, found: Scan) -> list[tuple[Seen, Followed]]:
        """Name every file; those that were renamed away come first: their rows are older."""
        now = self._clock()
        cut: list[Followed] = []
        current = []
        for seen in found.files:
            try:
                current.append((seen, self._recognise(seen, cut, found.notes)))
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    found.problems[seen.path] = f"cannot be read: {error.strerror or error}"
        present = {seen.identity for seen, _ in current} | {item.identity for item in found.files}
        gone = [file for key, file in self._files.items() if key not in present]
        rotated = [
            pair
            for file in [*cut, *gone]
            if not _is_out_of_sight(file, root, found)
            and (pair := self._follow_away(file, present, found.notes)) is not None
        ]
        for seen, file in [*rotated, *current]:
            if seen.signature != file.signature or not file.changed_at:
                file.changed_at = now
        return [*rotated, *current]

    def _recognise(self, seen: Seen, cut: list[Followed], notes: list[str]) -> Followed:
        file = self._files.get(seen.identity)
        if file is not None and not self._is_same(file, seen):
            del self._files[seen.identity]
            cut.append(file)
            notes.append(f"{seen.path} was cut or written anew: read from its start")
            file = None
        if file is None:
            number = self._ledger.add(self._watch, seen.path, *seen.identity)
            file = Followed(number, seen.path, seen.identity, Position())
            self._files[seen.identity] = file
        elif file.path != seen.path or file.is_rotated:
            self._ledger.move(file.id, seen.path, *seen.identity)
            file.path, file.is_rotated = seen.path, False
        return file

    def _is_same(self, file: Followed, seen: Seen) -> bool:
        """Whether a file only grew. One that is read as a whole is the same whatever it holds."""
        if seen.signature == file.signature or not file.position.mark:
            return True
        return self._has_grown(file, seen)

    def _has_grown(self, file: Followed, seen: Seen) -> bool:
        return seen.size >= file.position.size and _begins_with(file.position, seen)

    def _follow_away(
        self, file: Followed, present: set[Identity], notes: list[str]
    ) -> tuple[Seen, Followed] | None:
        """Go on with a file under its new name, or retire it."""
        seen = self._find(file, present)
        done = file.done and seen is not None and seen.signature == file.signature
        waited = self._clock() - file.changed_at > LINGER
        if seen is None or (done and waited and file.changed_at):
            self._ledger.retire(file.id)
            if self._files.get(file.identity) is file:
                del self._files[file.identity]
            return None
        if (seen.identity, seen.path) != (file.identity, file.path):
            if self._files.get(file.identity) is file:
                del self._files[file.identity]
            self._ledger.move(file.id, seen.path, *seen.identity)
            notes.append(f"{file.path} was rotated to {seen.path}: read to its end there")
            file.identity, file.path = seen.identity, seen.path
        file.is_rotated = True
        self._files[file.identity] = file
        return seen, file

    def _find(self, file: Followed, present: set[Identity]) -> Seen | None:
        if kind_of(file.path) in WHOLE:
            return None
        here = look(file.path) if file.is_rotated else None
        if here is not None and here.identity == file.identity and self._is_same(file, here):
            return here
        taken = present | {key for key, other in self._files.items() if other is not file}
        others = [seen for seen in siblings(file.path) if seen.identity not in taken]
        others.sort(key=lambda seen: seen.identity != file.identity)
        for seen in others:
            could_be = seen.identity == file.identity or file.position.mark
            if could_be and self._has_grown(file, seen):
                return seen
        return None


def _begins_with(position: Position, seen: Seen) -> bool:
    try:
        descriptor = os.open(seen.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return holds(descriptor, position.offset, position.mark)
    finally:
        os.close(descriptor)


def _is_out_of_sight(file: Followed, root: Path, found: Scan) -> bool:
    """A folder that cannot be read now, or a disk that is away, says nothing about its files."""
    if file.path == str(root):
        return not root.parent.is_dir()
    return any(file.path.startswith(os.path.join(path, "")) for path in found.problems)
