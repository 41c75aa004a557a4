"""A writer of watched files and an outbox that only keeps ids, for the tests of watching."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from splitfrozen_edge.watching.batch import Batch
from splitfrozen_edge.watching.collector import Collector
from splitfrozen_edge.watching.ledger import Ledger


def line(text: str) -> str:
    """One row of a .jsonl."""
    return json.dumps({"text": text}) + "\n"


def append(path: Path, *texts: str) -> Path:
    """Add rows to the end of a .jsonl."""
    with path.open("a") as stream:
        stream.write("".join(map(line, texts)))
    return path


class Outbox:
    """Example ids as (text, occurrence); knows what was put twice."""

    def __init__(self) -> None:
        self.ids: set[tuple[str, int]] = set()
        self.again = 0  # rows whose id was known

    def put(self, batch: Batch) -> None:
        """Take all rows of a batch."""
        for taken in batch.taken:
            text = taken.record["text"]
            found = (text, batch.occurrence(taken.file, text.encode()))
            self.again += found in self.ids
            self.ids.add(found)

    def texts(self) -> Counter[str]:
        """How many examples each text has."""
        return Counter(text for text, _ in self.ids)


class Watching:
    """A collector, its ledger and its outbox, as a watching process has them."""

    def __init__(self, tmp_path: Path, root: Path, **options: object) -> None:
        self.root = root
        self.now = 0.0
        self.outbox = Outbox()
        self._path = tmp_path / "watch.sqlite3"
        self._options = options
        self.start()

    def start(self) -> None:
        """As a new process does."""
        self.ledger = Ledger(self._path)
        self.collector = Collector(
            self.ledger,
            "ds_1",
            self.root,
            clock=lambda: self.now,
            **self._options,  # type: ignore[arg-type]
        )

    def crash(self) -> None:
        """As a killed process leaves things, then start again."""
        self.ledger.close()
        self.start()

    def poll(self, *, lose: bool = False) -> int:
        """Two passes, so that files come to rest: the rows handed on; `lose` dies uncommitted."""
        rows = 0
        for _ in range(2):
            while (batch := self.collector.poll(at_once=True)) is not None:
                self.outbox.put(batch)
                rows += len(batch.taken)
                if lose:
                    self.crash()
                    return rows
                batch.commit()
        return rows
