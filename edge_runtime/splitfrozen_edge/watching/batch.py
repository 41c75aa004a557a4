"""Records that were read and wait to be handed on together, and what that will change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from splitfrozen_edge.watching.ledger import KEPT_BAD_LINES, Advance, Ledger, Position


@dataclass(frozen=True, slots=True)
class Taken:
    """A record and where it stands."""

    file: int  # number in the ledger
    path: str
    line: int  # 1-based
    record: Mapping[str, Any]


@dataclass
class Batch:
    """Records of one watch, oldest first. Commit it when they are in the outbox."""

    ledger: Ledger
    taken: list[Taken] = field(default_factory=list)
    changes: dict[int, Advance] = field(default_factory=dict)
    since: float | None = None  # when its first record was read
    _bases: dict[int, Callable[[bytes], int]] = field(default_factory=dict)

    def add(self, taken: Taken, now: float) -> None:
        """Take a record of a file that was reached."""
        self.taken.append(taken)
        self.since = now if self.since is None else self.since
        self.changes[taken.file].rows += 1

    def reach(self, file: int, position: Position) -> Advance:
        """A file will have been read up to `position`, whatever stands there."""
        change = self.changes.setdefault(file, Advance(position))
        change.position = position
        return change

    def discard(self, file: int) -> None:
        """Nothing that was read of a file is valid: it was cut while it was read."""
        self.taken = [taken for taken in self.taken if taken.file != file]
        self.changes.pop(file, None)

    def reject(self, file: int, line: int, reason: str) -> None:
        """A line is no row: it is reported and not read again."""
        change = self.changes[file]
        if len(change.bad) < KEPT_BAD_LINES:  # a file of garbage must not fill the memory
            change.bad.append((line, reason))
        else:
            change.unlisted += 1

    def refuse(self, taken: Taken, reason: str) -> None:
        """A record that was taken turns out to be no example."""
        self.changes[taken.file].rows -= 1
        self.reject(taken.file, taken.line, reason)

    def count_anew(self, file: int, counts: Callable[[bytes], int]) -> None:
        """Count the equal rows of a file that is read as a whole by `counts`, not in the ledger."""
        self._bases[file] = counts

    def occurrence(self, file: int, row: bytes) -> int:
        """How many equal rows of the file come before this one; counts this one."""
        base = self._bases.get(file)
        if base is not None:
            return base(row)
        counts = self.changes[file].counts
        found = counts[row] if row in counts else self.ledger.count(file, row)
        counts[row] = found + 1
        return found

    def commit(self) -> None:
        """Move the ledger on."""
        if self.changes:
            self.ledger.advance(self.changes)
