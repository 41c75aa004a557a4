"""A batch of records -> rows for the outbox, and back: which record a complaint is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from splitfrozen.errors import DataError
from splitfrozen_edge.data.rows import Row, read_fields
from splitfrozen_edge.data.shapes import Shape, detect_shape
from splitfrozen_edge.watching.batch import Batch, Taken


class RowSink(Protocol):
    """Where rows of one dataset go: `pushing.pusher.Pusher`."""

    def collect(
        self,
        rows: Iterable[Row],
        *,
        occurrence: Callable[[bytes], int] | None = None,
        on_bad_row: Callable[[DataError], None] | None = None,
    ) -> object: ...

    def remember_dataset(self, dataset: Mapping[str, Any] | None) -> None: ...

    def release(self) -> None: ...


class RowSource:
    """A batch as rows for a sink; a row's line is its place in the batch, so that it is found."""

    def __init__(
        self,
        batch: Batch,
        task: str | None,
        fields: Mapping[str, str] | None,
        beat: Callable[[], object],
    ) -> None:
        self.labels: set[str] = set()  # as written, of all rows so far
        self._batch = batch
        self._task = task
        self._fields = fields
        self._beat = beat
        self._shapes: dict[frozenset[str], Shape] = {}
        self._current: Taken | None = None

    def rows(self) -> Iterator[Row]:
        """Each line is read by itself: in a growing file the next one may be of another kind."""
        for place, taken in enumerate(self._batch.taken, 1):
            self._beat()
            try:
                fields = read_fields(taken.record, self._shape(taken.record))
            except DataError as error:
                self._batch.refuse(taken, _words(error))
                continue
            self._current = taken
            if "label" in fields:
                self.labels.add(str(fields["label"]))
            yield Row(place, fields)

    def occurrence(self, first: bytes) -> int:
        """Of the row that was yielded last: sinks ask before they take another."""
        assert self._current is not None
        return self._batch.occurrence(self._current.file, first)

    def refuse(self, error: DataError) -> None:
        """A row is no example."""
        self._batch.refuse(self._batch.taken[(error.line or 1) - 1], _words(error))

    def _shape(self, record: Mapping[str, Any]) -> Shape:
        keys = frozenset(record)
        if keys not in self._shapes:
            self._shapes[keys] = detect_shape(record.keys(), self._task, self._fields)
        return self._shapes[keys]


def _words(error: DataError) -> str:
    """The message without the place in the batch, which means nothing to a person."""
    text = error.message
    head, found, rest = text.partition(f":{error.line}: ")
    text = rest if found and error.line is not None and " " not in head else text
    field = error.field
    return text if field is None or text.startswith(field) else f"{field}: {text}"
