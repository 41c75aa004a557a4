"""joined.json: the datasets that `run` feeds, each from a path. Written by `join` and `leave`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from splitfrozen_edge.atomic import replace_file
from splitfrozen_edge.state import StateError

NAME = "joined.json"


@dataclass(frozen=True)
class FeedOptions:
    """How rows of a joined path are pushed; as the flags of `push`."""

    bundle: str | None = None  # directory or id
    task: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)  # our field -> column
    labels: tuple[str, ...] = ()
    wire: str | None = None
    strict: bool = False
    threads: int | None = None
    memory: str = "auto"
    texts: bool = False  # .txt files too, one row each
    max_wait: float = 10.0  # seconds that few rows wait for more


@dataclass(frozen=True)
class Joined:
    """A dataset and where its rows come from."""

    dataset: str  # name or id
    path: Path
    options: FeedOptions = FeedOptions()
    joined_at: float = 0.0  # wall clock


def load_joined(directory: Path) -> list[Joined]:
    """All joined datasets, in the order in which they joined; StateError if the file is damaged."""
    path = directory / NAME
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    try:
        return [_read(item) for item in json.loads(text)["datasets"]]
    except (ValueError, LookupError, TypeError) as error:
        reason = f"{path} is damaged ({error}); remove it and join the datasets again"
        raise StateError(reason) from None


def join(directory: Path, new: Joined) -> bool:
    """Add a dataset, or give it another path or other options; whether it was there before."""
    before = load_joined(directory)
    others = [item for item in before if item.dataset != new.dataset]
    place = next((i for i, item in enumerate(before) if item.dataset == new.dataset), len(before))
    others.insert(place, new)
    _store(directory, others)
    return len(others) == len(before)


def leave(directory: Path, dataset: str) -> Joined:
    """Remove a dataset; StateError if it never joined."""
    before = load_joined(directory)
    found = next((item for item in before if item.dataset == dataset), None)
    if found is None:
        listed = ", ".join(item.dataset for item in before) or "none"
        raise StateError(f"dataset {dataset} has not joined; joined are: {listed}")
    _store(directory, [item for item in before if item is not found])
    return found


def joined_document(item: Joined) -> dict[str, Any]:
    """JSON-ready."""
    options = asdict(item.options) | {"labels": list(item.options.labels)}
    found = {"dataset": item.dataset, "path": str(item.path), "joined_at": item.joined_at}
    return found | {"options": options}


def _read(document: Mapping[str, Any]) -> Joined:
    known = {item.name for item in fields(FeedOptions)}
    options = {name: value for name, value in document["options"].items() if name in known}
    options["labels"] = tuple(options.get("labels", ()))
    return Joined(
        str(document["dataset"]),
        Path(document["path"]),
        FeedOptions(**options),
        float(document["joined_at"]),
    )


def _store(directory: Path, items: Sequence[Joined]) -> None:
    text = json.dumps({"datasets": [joined_document(item) for item in items]}, indent=2)
    replace_file(directory / NAME, text + "\n", durable=True)


def now_joined(dataset: str, path: Path, options: FeedOptions) -> Joined:
    """A dataset that joins now; the path becomes absolute, because a daemon has its own folder."""
    return Joined(dataset, path.absolute(), options, time.time())
