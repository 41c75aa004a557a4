"""Checked rows -> examples ready to run. Every row is encoded before the first one is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from splitfrozen.errors import DataError
from splitfrozen.identity import example_id
from splitfrozen_edge.data.complaints import Complaints
from splitfrozen_edge.data.preprocess import Encoded, Preprocessor
from splitfrozen_edge.data.rows import Row, Source, read_rows
from splitfrozen_edge.pushing.collect import Example, ShardHeader, check_fits


@dataclass
class Prepared:
    """The examples that are still to be computed, and what became of the other rows."""

    examples: list[Example] = field(default_factory=list)
    skipped: int = 0  # rows whose example is already queued or sent
    truncated: int = 0  # rows of `examples` that lost tokens
    tokens: int = 0  # of `examples`


@dataclass(frozen=True)
class Preparer:
    """Turns rows into examples of one dataset and bundle."""

    preprocessor: Preprocessor
    header: ShardHeader
    key: bytes  # of example ids
    max_length: int
    strict: bool  # refuse rows that would be truncated

    def prepare(self, source: Source, *, names: Mapping[str, str], known: set[bytes]) -> Prepared:
        """Encode every row that is not `known`; DataError with all complaints.

        `names`: label as written -> name in the dataset's list.
        """
        prepared = Prepared()
        complaints = Complaints()
        for row, identity in self._identified(source, names):
            if identity in known:
                prepared.skipped += 1
                continue
            try:
                encoded = self._encode(row)
                label = names[row.fields["label"]] if "label" in row.fields else None
                example = Example(row.line, encoded, identity, label)
                check_fits(example, self.header)
            except DataError as error:
                complaints.add(DataError(error.message, path=str(source.path), line=row.line))
                continue
            prepared.examples.append(example)
            prepared.tokens += len(encoded.ids)
            prepared.truncated += encoded.dropped > 0
        complaints.raise_any()
        return prepared

    def _encode(self, row: Row) -> Encoded:
        encoded = self.preprocessor.encode(row.fields)
        if self.strict and encoded.dropped:
            tokens = len(encoded.ids) + encoded.dropped
            raise DataError(f"has {tokens} tokens; the bundle takes {self.max_length} (--strict)")
        return encoded

    def _identified(self, source: Source, names: Mapping[str, str]) -> Iterator[tuple[Row, bytes]]:
        """Rows with their example ids; equal rows are numbered in file order."""
        seen: dict[bytes, int] = {}
        for row in read_rows(source):
            example: dict[str, Any] = dict(row.fields)
            if "label" in example:
                if example["label"] not in names:
                    message = "the file changed while it was read; push it again"
                    raise DataError(message, path=str(source.path), line=row.line)
                example["label"] = names[example["label"]]
            first = example_id(self.key, self.header.dataset, example, 0)
            occurrence = seen.get(first, 0)
            seen[first] = occurrence + 1
            again = example_id(self.key, self.header.dataset, example, occurrence)
            yield row, again
