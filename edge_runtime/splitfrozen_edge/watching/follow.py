"""A growing file: what came behind the last line that was taken."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from splitfrozen.errors import DataError
from splitfrozen_edge.watching.batch import Batch
from splitfrozen_edge.watching.files import Seen, holds, mark
from splitfrozen_edge.watching.ledger import Known, Position
from splitfrozen_edge.watching.lines import Line, parse_line, read_lines, read_tail


@dataclass
class Followed:
    """A file of the ledger and what this process knows besides."""

    id: int
    path: str
    identity: tuple[int, int]  # device, inode
    position: Position
    done: bool = False  # everything up to the size of the position was looked at
    tail_tried: bool = False
    is_rotated: bool = False  # renamed to what is not watched; followed until its writer is done
    quiet: tuple[int, int] | None = None  # signature at the last pass, of a file read as a whole
    changed_at: float = 0.0  # by the collector's clock

    @classmethod
    def of(cls, known: Known) -> Followed:
        """A file as the ledger has it."""
        position = known.position
        done = position.size > 0 and position.offset == position.size
        return cls(known.id, known.path, (known.device, known.inode), position, done)

    @property
    def signature(self) -> tuple[int, int]:
        """Of the file as it was when it was read last."""
        return self.position.size, self.position.mtime_ns


class Taker(Protocol):
    """Where readers put what they find."""

    @property
    def batch(self) -> Batch: ...

    def take(self, file: Followed, line: int, record: Mapping[str, Any]) -> bool: ...


def read_by_line(file: Followed, seen: Seen, taker: Taker) -> Iterator[None]:
    """Hand the new complete lines of a file to `taker`; yields whenever its batch is full."""
    changed = seen.signature != file.signature
    if file.done and not changed and (file.tail_tried or file.position.offset == seen.size):
        return
    with open(seen.path, "rb") as stream:
        info = os.fstat(stream.fileno())
        if (info.st_dev, info.st_ino) != file.identity:
            return  # replaced since the scan: the next one says what it is
        start, number = file.position.offset, file.position.line
        reader = _LineReader(file, seen, taker, stream.fileno())
        if file.done and not changed:
            file.tail_tried = True
            tail = read_tail(stream, start, number)
            if tail is not None:
                reader.take(tail)
        else:
            file.tail_tried = False
            for line in read_lines(stream, start, number):
                if reader.take(line):
                    if not reader.settle():
                        return
                    yield
        file.done = reader.settle()


class _LineReader:
    """One opening of a file."""

    def __init__(self, file: Followed, seen: Seen, taker: Taker, descriptor: int) -> None:
        self._file = file
        self._seen = seen
        self._taker = taker
        self._descriptor = descriptor
        self._start = file.position  # what must still hold when the lines were read
        self._offset = file.position.offset
        self._number = file.position.line

    def take(self, line: Line) -> bool:
        """Hand on one line; whether the batch is full."""
        self._offset = line.end
        self._number = line.number + line.is_whole
        self._taker.batch.reach(self._file.id, self._file.position)
        try:
            record = parse_line(line)
        except DataError as error:
            self._taker.batch.reject(self._file.id, line.number, str(error))
            return False
        return record is not None and self._taker.take(self._file, line.number, record)

    def settle(self) -> bool:
        """The lines are valid if what was read before them still stands; else they are dropped."""
        file, start = self._file, self._start
        if not holds(self._descriptor, start.offset, start.mark):
            self._taker.batch.discard(file.id)
            return False
        size, mtime_ns = self._seen.signature
        position = Position(
            self._offset, self._number, mark(self._descriptor, self._offset), size, mtime_ns
        )
        if position != file.position:
            self._taker.batch.reach(file.id, position)
        file.position = self._start = position
        return True
