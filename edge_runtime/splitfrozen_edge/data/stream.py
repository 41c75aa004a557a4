"""Rows that an app hands over, one after the other -> checked rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from splitfrozen.errors import DataError
from splitfrozen_edge.data.rows import Row, check_kind, read_fields
from splitfrozen_edge.data.shapes import Shape, detect_shape

PLACE = "rows"  # stands in complaints where a file has its path
Given = Mapping[str, Any] | Row


def shape_of(row: Given, task: str | None, fields: Mapping[str, str] | None) -> Shape:
    """Which keys rows like this one have; DataError if they are of no known kind."""
    if isinstance(row, Row):
        return detect_shape(row.fields.keys(), task, None)
    if not isinstance(row, Mapping):
        raise DataError(f"a row is a mapping of fields, not {type(row).__name__}", path=PLACE)
    return detect_shape(row.keys(), task, fields)


def check_rows(
    rows: Iterable[Given],
    shape: Shape,
    *,
    is_guessed: bool,
    on_bad_row: Callable[[DataError], None],
) -> Iterator[Row]:
    """Normalise rows; they are numbered from 1. A Row passes as it is.

    `is_guessed`: nobody said task or fields, so that rows of another kind are complained about.
    """
    for number, row in enumerate(rows, 1):
        if isinstance(row, Row):
            yield row
            continue
        try:
            if not isinstance(row, Mapping):
                raise DataError(f"is a {type(row).__name__}, not a mapping of fields")
            if is_guessed:
                check_kind(row, shape)
            found = Row(number, read_fields(row, shape))
        except DataError as error:
            on_bad_row(DataError(error.message, path=PLACE, line=number, field=error.field))
            continue
        yield found
