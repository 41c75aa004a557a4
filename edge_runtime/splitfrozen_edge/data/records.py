"""A data file -> (line number, record) pairs: .jsonl, .csv, .tsv. Knows files, not what rows mean.

A .csv follows RFC 4180: quotes may hold commas and line breaks; a row's line is where it starts.
A .tsv has no quoting, as in GLUE: one line is one row, and a quote is a quote.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from splitfrozen.errors import DataError
from splitfrozen_edge.data.complaints import Complaints

Record = tuple[int, Mapping[str, Any]]
_BOM = b"\xef\xbb\xbf"


def read_records(path: Path, complaints: Complaints) -> Iterator[Record]:
    """Yield (1-based line, record) of a file; broken records go to `complaints`.

    Raises DataError at once for what makes the rest of the file unreadable.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"unknown kind of file {path.suffix or '(no ending)'}; use .jsonl, .csv or .tsv",
            path=str(path),
        )
    yield from reader(path, complaints)


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Decode line by line, so that a bad byte has a line number."""
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            data = raw.removeprefix(_BOM) if number == 1 else raw
            try:
                yield number, data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8",
                    path=str(path),
                    line=number,
                ) from None


def _read_jsonl(path: Path, complaints: Complaints) -> Iterator[Record]:
    for number, text in _read_lines(path):
        if not text.strip():
            continue
        try:
            document = parse_object(text)
        except DataError as error:
            complaints.add(DataError(str(error), path=str(path), line=number))
        else:
            yield number, document


def parse_object(text: str) -> Mapping[str, Any]:
    """The JSON object of one line; DataError, without a path, if it is none."""
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON: {_why(error, text)}") from None
    if not isinstance(document, dict):
        raise DataError("is not a JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object repeats a key")
    return found


def _read_csv(path: Path, complaints: Complaints) -> Iterator[Record]:
    yield from _with_header(path, _csv_rows(path), complaints)


def _read_tsv(path: Path, complaints: Complaints) -> Iterator[Record]:
    rows = (
        (number, text.removesuffix("\n").removesuffix("\r").split("\t"))
        for number, text in _read_lines(path)
        if text.strip("\r\n")
    )
    yield from _with_header(path, rows, complaints)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((text for _, text in _read_lines(path)), strict=True)
    start = 1
    try:
        for row in reader:
            if row:
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        message = f"is not CSV: {error} (the row that starts here)"
        raise DataError(message, path=str(path), line=start) from None


def _with_header(
    path: Path, rows: Iterator[tuple[int, list[str]]], complaints: Complaints
) -> Iterator[Record]:
    first = next(rows, None)
    if first is None:
        return
    line, header = first
    _check_header(path, line, header)
    for line, row in rows:
        if len(row) != len(header):
            message = f"has {len(row)} columns; the header has {len(header)}"
            complaints.add(DataError(message, path=str(path), line=line))
        else:
            yield line, dict(zip(header, row, strict=True))


def _check_header(path: Path, line: int, header: Sequence[str]) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        message = f"the header names the column {repeated[0]!r} twice"
        raise DataError(message, path=str(path), line=line)


_READERS = {".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".csv": _read_csv, ".tsv": _read_tsv}


def _why(error: Exception, text: str) -> str:
    """The reason without the parser's own line number, which is always 1."""
    if isinstance(error, json.JSONDecodeError):
        unclosed = error.msg.startswith("Unterminated string")
        if unclosed or not text[error.pos :].strip("\r\n"):
            where = "inside a string" if unclosed or "control" in error.msg else "too early"
            return f"the line ends {where}"
        return f"{error.msg.removesuffix(' at')} at character {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
