"""The texts that a user hands to an export: to compare on, to calibrate on, to measure a loss on.

Nothing here knows a tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from splitfrozen.errors import DataError
from splitfrozen_export.measure.samples import SENTENCES

CALIBRATION_ROWS = 256  # read at most; more change the largest values little and take time
_TEXT_BYTES = 4 << 20  # of a text to measure a loss on; far more than its windows need


def read_lines(path: Path | None) -> tuple[str, ...]:
    """The texts to compare on: one a line of the file, or the built-in sentences.

    Raises DataError for a file that is not UTF-8 or has no text.
    """
    if path is None:
        return SENTENCES
    texts = tuple(line for line in _read(path).split("\n") if line.strip())
    if not texts:
        raise DataError("has no text; write one text a line", path=str(path))
    return texts


def read_text(path: Path) -> str:
    """The first megabytes of a plain text.

    Raises DataError for a file that is not UTF-8 or has no text.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_TEXT_BYTES)
    except OSError as error:
        raise DataError(f"cannot be read: {error}", path=str(path)) from None
    cut_off = len(raw) == _TEXT_BYTES  # perhaps in the middle of a character
    try:
        text = raw[:-4].decode("utf-8", "ignore") if cut_off else raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"cannot be read as UTF-8 text: {error}", path=str(path)) from None
    if not text.strip():
        raise DataError("has no text", path=str(path))
    return text


def read_calibration(path: Path) -> tuple[str, ...]:
    """The texts of JSON lines: `text` (with `text_pair`), or `prompt` and `completion`.

    Of a long file, CALIBRATION_ROWS rows spread evenly over it. Raises DataError naming file,
    line and field of the first row that cannot be used.
    """
    rows = [
        (number, line) for number, line in enumerate(_read(path).split("\n"), 1) if line.strip()
    ]
    if not rows:
        raise DataError('has no rows; write one {"text": …} a line', path=str(path))
    count = min(len(rows), CALIBRATION_ROWS)
    chosen = [rows[index * len(rows) // count] for index in range(count)]
    return tuple(_text_of(path, number, line) for number, line in chosen)


def _text_of(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"is not JSON: {error}", path=str(path), line=number) from None
    if not isinstance(row, dict):
        raise DataError("is not a JSON object", path=str(path), line=number)
    if "text" in row:
        names = ("text", "text_pair") if row.get("text_pair") is not None else ("text",)
        return " ".join(_string(row, name, path, number) for name in names)
    if "prompt" in row and "completion" in row:
        return "".join(_string(row, name, path, number) for name in ("prompt", "completion"))
    known = ", ".join(sorted(map(str, row))) or "no field"
    raise DataError(
        f'has {known}; a row has "text", or "prompt" and "completion"', path=str(path), line=number
    )


def _string(row: dict[str, Any], name: str, path: Path, number: int) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise DataError("is not a string with text in it", path=str(path), line=number, field=name)
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as UTF-8 text: {error}", path=str(path)) from None
