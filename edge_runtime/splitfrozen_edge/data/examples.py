"""Checked rows -> examples ready to run, one after the other: nothing is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from splitfrozen.errors import DataError
from splitfrozen.identity import example_id
from splitfrozen_edge.data.preprocess import Encoded, Preprocessor
from splitfrozen_edge.data.rows import Row
from splitfrozen_edge.pushing.collect import Example, ShardHeader, check_fits


class LabelNames(Protocol):
    """Labels as rows write them -> names of the dataset."""

    def name(self, label: str) -> str:
        """The dataset's name of a label; DataError if it has none."""
        ...


@dataclass
class Tally:
    """What became of the rows so far."""

    rows: int = 0
    skipped: int = 0  # their example is already queued or sent
    refused: int = 0  # bad rows
    examples: int = 0  # to be computed
    truncated: int = 0  # of those, rows that lost tokens
    tokens: int = 0  # of the examples


@dataclass(frozen=True)
class Preparer:
    """Turns rows into examples of one dataset and bundle."""

    preprocessor: Preprocessor
    header: ShardHeader
    key: bytes  # of example ids
    max_length: int
    strict: bool  # refuse rows that would be truncated

    def prepare(
        self,
        rows: Iterable[Row],
        labels: LabelNames,
        *,
        path: str,
        is_known: Callable[[bytes], bool],
        occurrence: Callable[[bytes], int],
        on_bad_row: Callable[[DataError], None],
        tally: Tally,
    ) -> Iterator[Example]:
        """Yield the examples of rows that are not known yet; counts all of them in `tally`.

        `occurrence`: id of a row's first occurrence -> how many equal rows came before. A row
        that cannot be used goes to `on_bad_row`, which may raise; `path` is where it stands.
        """
        for row in rows:
            tally.rows += 1
            try:
                example = self._example(row, labels, is_known, occurrence)
            except DataError as error:
                tally.refused += 1
                on_bad_row(DataError(error.message, path=path, line=row.line))
                continue
            if example is None:
                tally.skipped += 1
                continue
            tally.examples += 1
            tally.tokens += len(example.encoded.ids)
            tally.truncated += example.encoded.dropped > 0
            yield example

    def _example(
        self,
        row: Row,
        labels: LabelNames,
        is_known: Callable[[bytes], bool],
        occurrence: Callable[[bytes], int],
    ) -> Example | None:
        label = labels.name(row.fields["label"]) if "label" in row.fields else None
        identity = self.identify(row, label, occurrence)
        if is_known(identity):
            return None
        example = Example(row.line, self.encode(row), identity, label)
        check_fits(example, self.header)
        return example

    def identify(self, row: Row, label: str | None, occurrence: Callable[[bytes], int]) -> bytes:
        """The row's example id (SPEC 2.5); `label` is the dataset's name of its label."""
        example: dict[str, Any] = dict(row.fields)
        if label is not None:
            example["label"] = label
        first = example_id(self.key, self.header.dataset, example, 0)
        number = occurrence(first)
        return example_id(self.key, self.header.dataset, example, number) if number else first

    def encode(self, row: Row) -> Encoded:
        """Token ids; DataError if the row gives nothing to train on, or is too long (strict)."""
        encoded = self.preprocessor.encode(row.fields)
        if self.strict and encoded.dropped:
            tokens = len(encoded.ids) + encoded.dropped
            raise DataError(f"has {tokens} tokens; the bundle takes {self.max_length} (--strict)")
        return encoded
