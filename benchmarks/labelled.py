"""Labelled text files: reading, a deterministic held-out part, and dealing rows to devices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from splitfrozen.errors import DataError
from splitfrozen_edge.data.rows import Source, read_rows

HELD_OUT = 0.2  # of the rows, where a file comes without a held-out one


@dataclass(frozen=True)
class Labelled:
    """One classification example."""

    text: str
    label: str
    text_pair: str | None = None


def read_labelled(path: Path) -> list[Labelled]:
    """Read a .jsonl, .csv or .tsv file as the edge runtime does; DataError names file and line."""
    rows = [
        Labelled(row.fields["text"], row.fields["label"], row.fields.get("text_pair"))
        for row in read_rows(Source(path, task="classification"))
    ]
    if not rows:
        raise DataError("the file has no rows", path=str(path))
    return rows


def write_labelled(path: Path, rows: Iterable[Labelled]) -> None:
    """Write JSON lines that `splitfrozen-edge push --data` reads."""
    with path.open("w", encoding="utf-8") as sink:
        for row in rows:
            fields = {"text": row.text, "text_pair": row.text_pair, "label": row.label}
            kept = {name: value for name, value in fields.items() if value is not None}
            sink.write(json.dumps(kept, ensure_ascii=False) + "\n")


def label_names(rows: Iterable[Labelled]) -> list[str]:
    """Every label once, in the order of first appearance."""
    return list(dict.fromkeys(row.label for row in rows))


def hold_out(
    rows: Iterable[Labelled], fraction: float = HELD_OUT
) -> tuple[list[Labelled], list[Labelled]]:
    """Split into (training, held-out) by a hash of the text: the same row, the same side."""
    training: list[Labelled] = []
    held_out: list[Labelled] = []
    for row in rows:
        (held_out if _place(row) < fraction else training).append(row)
    return training, held_out


def deal(rows: Sequence[Labelled], devices: int) -> list[list[Labelled]]:
    """Give every device its own labels, so that no device sees what the others do.

    With fewer labels than devices, a label's rows go round among the devices that share it.
    """
    names = label_names(rows)
    owners = {name: _owners(index, len(names), devices) for index, name in enumerate(names)}
    dealt = dict.fromkeys(names, 0)
    parts: list[list[Labelled]] = [[] for _ in range(devices)]
    for row in rows:
        mine = owners[row.label]
        parts[mine[dealt[row.label] % len(mine)]].append(row)
        dealt[row.label] += 1
    return parts


def mix(rows: Iterable[Labelled]) -> list[Labelled]:
    """The rows in an order that has nothing to do with their labels, the same every time."""
    return sorted(rows, key=_place)


def _owners(index: int, labels: int, devices: int) -> list[int]:
    if labels >= devices:
        return [index * devices // labels]
    return [device for device in range(devices) if device % labels == index]


def _place(row: Labelled) -> float:
    content = "\0".join((row.text, row.text_pair or ""))
    digest = hashlib.sha256(content.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
