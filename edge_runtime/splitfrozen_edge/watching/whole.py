"""Files that are read as a whole once they have come to rest: .csv, .tsv, one text per .txt.

A row of a .csv may go over several lines, and its columns are named in the first one: reading on
in the middle is not safe. Rows that were taken before have ids that the outbox knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from splitfrozen.errors import DataError
from splitfrozen_edge.data.complaints import Complaints
from splitfrozen_edge.data.occurrences import Occurrences
from splitfrozen_edge.data.records import Record, read_records
from splitfrozen_edge.watching.batch import Batch
from splitfrozen_edge.watching.files import TEXTS, Seen, kind_of, look
from splitfrozen_edge.watching.follow import Followed, Taker

MAX_TEXT = 8 * 1024 * 1024  # bytes of a .txt


def read_whole(file: Followed, seen: Seen, taker: Taker) -> Iterator[None]:
    """Hand all rows of a changed file to `taker`; yields whenever its batch is full."""
    if file.done and seen.signature == file.signature:
        return
    if file.quiet != seen.signature:
        file.quiet = seen.signature  # it may still be written: wait until it looks the same twice
        return
    counts = Occurrences()  # closed with the last batch that it counts for
    bad = _Bad(file, taker)
    taker.batch.reach(file.id, file.position).afresh = True
    try:
        for line, record in _records(Path(seen.path), bad):
            taker.batch.count_anew(file.id, counts)
            taker.batch.reach(file.id, file.position)
            if taker.take(file, line, record):
                yield
    except DataError as error:
        bad.add(error)
    if look(seen.path) == seen:
        size, mtime_ns = seen.signature
        file.position = replace(file.position, offset=size, size=size, mtime_ns=mtime_ns)
        file.done = True
    taker.batch.reach(file.id, file.position)


def _records(path: Path, bad: Complaints) -> Iterator[Record]:
    if kind_of(str(path)) not in TEXTS:
        yield from read_records(path, bad)
        return
    if path.stat().st_size > MAX_TEXT:
        raise DataError(f"is larger than {MAX_TEXT} bytes", path=str(path), line=1)
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("is not UTF-8", path=str(path), line=1) from None
    if text.strip():
        yield 1, {"text": text}


class _Bad(Complaints):
    """Notes complaints in the batch: a bad row stops no other one."""

    def __init__(self, file: Followed, taker: Taker) -> None:
        super().__init__()
        self._file = file
        self._taker = taker

    def add(self, error: DataError) -> None:
        """Note one."""
        batch: Batch = self._taker.batch
        batch.reach(self._file.id, self._file.position)
        reason = str(error).removeprefix(f"{error.path}:{error.line}: ")
        batch.reject(self._file.id, error.line or 1, reason)
