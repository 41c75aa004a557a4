"""A watched path -> batches of new records. Knows files and lines, not what a row means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from splitfrozen_edge.watching.batch import Batch, Taken
from splitfrozen_edge.watching.files import LINES, WHOLE, Scan, Seen, kind_of, scan
from splitfrozen_edge.watching.follow import Followed, read_by_line
from splitfrozen_edge.watching.ledger import Ledger
from splitfrozen_edge.watching.rotation import Rotation
from splitfrozen_edge.watching.whole import read_whole

MAX_ROWS = 512  # of a batch: a few shards
PATIENCE = 10.0  # seconds that few rows wait for more


class Collector:
    """Follows one path. Files that did not change cost one stat."""

    def __init__(
        self,
        ledger: Ledger,
        dataset: str,
        root: Path,
        *,
        clock: Callable[[], float],
        max_rows: int = MAX_ROWS,
        patience: float = PATIENCE,
        kinds: frozenset[str] = LINES | WHOLE,
    ) -> None:
        """`clock`: seconds that never go back. Each collector of a ledger has its own path."""
        self.root = root.absolute()
        self.problems: dict[str, str] = {}  # path -> why it is not read
        self.unread: dict[str, int] = {}  # ending -> files that are left out
        self.notes: list[str] = []  # rotations that were found; the reader empties it
        self.changed = False  # whether the last whole pass found anything new
        self._ledger = ledger
        self._watch = ledger.watch(dataset, self.root)
        self._clock = clock
        self._max_rows = max_rows
        self._patience = patience
        self._kinds = kinds
        self.reset()

    def reset(self) -> None:
        """Go back to what the ledger says: the last batch was not committed."""
        self._files = {
            (known.device, known.inode): Followed.of(known)
            for known in self._ledger.files(self._watch)
        }
        self._rotation = Rotation(self._ledger, self._watch, self._files, self._clock)
        self._pass: Iterator[None] | None = None
        self._batch = self._new_batch()

    def poll(self, *, at_once: bool = False) -> Batch | None:
        """Look for new rows: a batch that is full or has waited long enough, or None.

        `at_once` waits for no more rows. Commit a batch before the next call, or `reset`.
        """
        if self._pass is None:
            self._pass = self._walk()
        try:
            next(self._pass)
        except StopIteration:
            self._pass = None
            if not self._is_due(at_once=at_once):
                return None
        found, self._batch = self._batch, self._new_batch()
        return found

    def path_of(self, file: int) -> str:
        """Where a file of a batch is now."""
        known = (item.path for item in self._files.values() if item.id == file)
        return next(known, str(self.root))

    @property
    def waiting(self) -> int:
        """Rows that were read and wait for more."""
        return len(self._batch.taken)

    def _is_due(self, *, at_once: bool) -> bool:
        batch = self._batch
        if batch.since is None:
            return bool(batch.changes)  # bad or empty lines only
        return at_once or self._clock() - batch.since >= self._patience

    def _walk(self) -> Iterator[None]:
        """One pass over all files; yields whenever the batch is full."""
        self.changed = False
        found = scan(self.root, self._kinds)
        followed = self._rotation.settle(self.root, found)
        self.problems, self.unread = found.problems, found.unread
        self.notes += found.notes
        for seen, file in followed:
            yield from self._read(seen, file, found)

    def _read(self, seen: Seen, file: Followed, found: Scan) -> Iterator[None]:
        by_line = kind_of(seen.path) in LINES or file.is_rotated or self._is_single(seen)
        read = read_by_line if by_line else read_whole
        try:
            yield from read(file, seen, self)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                found.problems[seen.path] = f"cannot be read: {error.strerror or error}"

    @property
    def batch(self) -> Batch:
        """What is being filled; another one after each that was handed out."""
        return self._batch

    def take(self, file: Followed, line: int, record: Mapping[str, Any]) -> bool:
        """Add a record to the batch; whether it is full now."""
        self.changed = True
        self._batch.add(Taken(file.id, file.path, line, record), self._clock())
        return len(self._batch.taken) >= self._max_rows

    def _is_single(self, seen: Seen) -> bool:
        """A file that was named itself is lines of JSON unless its ending says otherwise."""
        return seen.path == str(self.root) and kind_of(seen.path) not in WHOLE

    def _new_batch(self) -> Batch:
        return Batch(self._ledger)
