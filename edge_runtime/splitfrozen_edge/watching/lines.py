"""Bytes of a growing file -> complete lines -> records. A half-written last line waits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from splitfrozen.errors import DataError
from splitfrozen_edge.data.records import parse_object

MAX_LINE = 8 * 1024 * 1024  # bytes; a longer line is no row, and must not fill the memory
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """A line and where the file goes on behind it."""

    number: int  # 1-based
    data: bytes
    end: int  # offset of the next line
    is_whole: bool = True  # ends in a line break; False for a last line without, or a part


def read_lines(stream: BinaryIO, offset: int, number: int) -> Iterator[Line]:
    """Yield the complete lines from `offset` on, and parts of a line that is too long."""
    stream.seek(offset)
    while True:
        data = stream.readline(MAX_LINE)
        whole = data.endswith(b"\n")
        if not whole and len(data) < MAX_LINE:
            return
        offset += len(data)
        yield Line(number, data, offset, whole)
        number += whole


def read_tail(stream: BinaryIO, offset: int, number: int) -> Line | None:
    """The last line without a line break, if it is a whole JSON object: no object begins another.

    Asked when a file has come to rest: many programs end no file with a line break.
    """
    stream.seek(offset)
    data = stream.read(MAX_LINE)
    if not data.strip() or b"\n" in data:
        return None
    try:
        is_object = isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return None
    return Line(number, data, offset + len(data), is_whole=False) if is_object else None


def parse_line(line: Line) -> Mapping[str, Any] | None:
    """The object of a line, None for an empty one; DataError without a path."""
    if len(line.data) >= MAX_LINE:
        raise DataError(f"is longer than {MAX_LINE} bytes")
    data = line.data.removeprefix(_BOM) if line.number == 1 else line.data
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start + 1} of the line is not UTF-8") from None
    return parse_object(text) if text.strip() else None
