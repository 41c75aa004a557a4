"""A data file -> checked rows. Knows the rules of a row; knows neither tokenizer nor server.

A row is the normalised object of SPEC 2.5: `text`, `text_pair`, `label`, or `prompt`,
`completion`, or `messages`. Text stays as it was read, to the last space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitfrozen.errors import DataError
from splitfrozen_edge.data.complaints import Complaints
from splitfrozen_edge.data.records import read_records
from splitfrozen_edge.data.shapes import Shape, detect_shape


@dataclass(frozen=True)
class Row:
    """One normalised row and where it came from."""

    line: int  # 1-based, where the row starts
    fields: Mapping[str, Any]  # str values; `messages` is a list of {role, content}


@dataclass(frozen=True)
class Source:
    """A file and how to read it; the same values read the same rows."""

    path: Path
    task: str | None = None  # None: told by the columns
    fields: Mapping[str, str] | None = None  # our field -> column; None: detected


@dataclass(frozen=True)
class Survey:
    """What a complete check of a file found."""

    shape: Shape
    rows: int
    labels: Mapping[str, int]  # label as written -> first line that has it


def survey(source: Source, each: Callable[[], object] = lambda: None) -> Survey:
    """Check every row of a file; raises DataError with all complaints, or if there are no rows.

    `each` is called for every row.
    """
    complaints = Complaints()
    reader = _Reader(source, complaints)
    count = 0
    labels: dict[str, int] = {}
    for row in reader:
        each()
        count += 1
        if "label" in row.fields:
            labels.setdefault(row.fields["label"], row.line)
    complaints.raise_any()
    if reader.shape is None:
        raise DataError("the file has no rows", path=str(source.path))
    return Survey(reader.shape, count, labels)


def read_rows(source: Source) -> Iterator[Row]:
    """Yield the rows of a file; raises DataError with all complaints at the end."""
    complaints = Complaints()
    yield from _Reader(source, complaints)
    complaints.raise_any()


_TELLING = ("label", "prompt", "completion", "messages")  # columns of other kinds of rows


class _Reader:
    def __init__(self, source: Source, complaints: Complaints) -> None:
        self.shape: Shape | None = None
        self._source = source
        self._complaints = complaints

    def __iter__(self) -> Iterator[Row]:
        for line, record in read_records(self._source.path, self._complaints):
            if self.shape is None:
                self.shape = self._detect(line, record)
            try:
                if not (self._source.task or self._source.fields):
                    check_kind(record, self.shape)
                yield Row(line, read_fields(record, self.shape))
            except DataError as error:
                self._complaints.add(
                    DataError(
                        error.message, path=str(self._source.path), line=line, field=error.field
                    )
                )

    def _detect(self, line: int, record: Mapping[str, Any]) -> Shape:
        try:
            return detect_shape(record.keys(), self._source.task, self._source.fields)
        except DataError as error:
            raise DataError(error.message, path=str(self._source.path), line=line) from None


def check_kind(record: Mapping[str, Any], shape: Shape) -> None:
    """Rows whose kind was guessed from plain text in the first one hold nothing else."""
    if set(shape.columns) != {"text"}:
        return
    for column in _TELLING:
        if record.get(column) is not None:
            raise _FieldError(
                column, "is here, but the first row has none; say --task to read only its text"
            )


def read_fields(record: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Normalise one record; DataError whose message is about `param`, the field."""
    found: dict[str, Any] = {}
    for field, column in shape.columns.items():
        name = field if field == column else f"{field} (column {column})"
        if record.get(column) is None:
            raise _FieldError(name, "is missing; all rows need the fields of the first one")
        found[field] = _CHECKS[field](name, record[column])
    if "text" in found and "text_pair" not in found and record.get("text_pair") is not None:
        raise _FieldError("text_pair", "is here, but the first row has none")
    return found


class _FieldError(DataError):
    """Carries field and message apart until path and line are known."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _FieldError(name, f"is {_kind(value)}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _FieldError(name, "has half of a surrogate pair (a broken \\ud… escape)") from None
    return value


def _full_text(name: str, value: Any) -> str:
    if not _text(name, value).strip():
        raise _FieldError(name, "is empty")
    return str(value)


def _label(name: str, value: Any) -> str:
    """A label's name; a whole number becomes its decimal text."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _FieldError(name, f"is {_kind(value)}; use a name or a whole number")
    text = _full_text(name, value).strip()
    if text == "-1":
        raise _FieldError(name, "is -1, which means unlabelled: training needs a label")
    return text


def _messages(name: str, value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise _FieldError(name, "is not a list of messages")
    messages = [_message(f"{name}[{place}]", item) for place, item in enumerate(value)]
    if messages[-1]["role"] != "assistant":
        raise _FieldError(name, "does not end with a message of the role assistant")
    return messages


def _message(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or set(value) != {"role", "content"}:
        raise _FieldError(name, "needs exactly role and content (tool calls are not supported)")
    full = value["role"] == "assistant"
    content = (_full_text if full else _text)(f"{name}.content", value["content"])
    return {"role": _full_text(f"{name}.role", value["role"]), "content": content}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    names = {int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "text": _full_text,
    "text_pair": _full_text,
    "label": _label,
    "prompt": _text,
    "completion": _full_text,
    "messages": _messages,
}
