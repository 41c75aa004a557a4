"""Lines that are no rows, for the log: one word per file and look, so that a log stays short."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from splitfrozen_edge.watching.ledger import Advance


class BadLines:
    """Of one look at a path."""

    def __init__(self, path_of: Callable[[int], str], say: Callable[[str], object]) -> None:
        """`path_of`: number of a file in the ledger -> its path."""
        self._path_of = path_of
        self._say = say
        self._told: set[int] = set()

    def note(self, changes: Mapping[int, Advance]) -> None:
        """Say the first bad line of each file of a batch, and how many more; later ones are not."""
        for file, change in changes.items():
            if not change.bad or file in self._told:
                continue
            self._told.add(file)
            line, reason = change.bad[0]
            more = len(change.bad) - 1 + change.unlisted
            rest = f" (and {more} more bad lines, see status)" if more else ""
            self._say(f"{self._path_of(file)}:{line}: {reason}{rest}")
