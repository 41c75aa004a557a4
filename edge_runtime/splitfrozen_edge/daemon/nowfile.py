"""now.json: what the daemon does or why it waits, for `status`. Spares the SD card."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from splitfrozen_edge.atomic import replace_file

NAME = "now.json"
RARELY = 60.0  # seconds between writes when only a time moved on
SOMETIMES = 10.0  # seconds between writes when only counts moved on
OFTEN = 2.0  # seconds between any two writes
_MOVING = frozenset({"updated_at", "last_heartbeat", "last_upload"})
_COUNTS = frozenset({"waiting_rows", "queued_rows"})


class NowFile:
    """Written by one daemon."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = directory / NAME
        self._clock = clock
        self._written: Mapping[str, Any] | None = None
        self._written_at = 0.0
        self.writes = 0

    def show(self, document: Mapping[str, Any], *, at_once: bool = False) -> None:
        """Write what is new: changes soon, mere times once a minute. A full disk stops nothing."""
        now = self._clock()
        waited = now - self._written_at
        old = None if at_once else self._written
        if old is not None and (document == old or waited < _pause(document, old)):
            return
        full = dict(document) | {"pid": os.getpid(), "started_ticks": start_ticks(os.getpid())}
        try:
            replace_file(self._path, json.dumps(full, indent=1) + "\n", durable=False)
        except OSError:
            return
        self._written, self._written_at = document, now
        self.writes += 1


def read_now(directory: Path) -> dict[str, Any] | None:
    """What the last daemon wrote, with `running`: whether that process still lives."""
    try:
        document = json.loads((directory / NAME).read_text("utf-8"))
        pid = int(document["pid"])
        ticks = document["started_ticks"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    running = _lives(pid) and document.get("ended_at") is None and start_ticks(pid) == ticks
    return dict(document) | {"running": running}


def drop_dataset(directory: Path, keys: Collection[str]) -> None:
    """Take datasets, by id or name, out of what an ended daemon wrote: `status` shows it on."""
    path = directory / NAME
    try:
        document = json.loads(path.read_text("utf-8"))
        listed = document["datasets"]
        kept = [item for item in listed if not {item["id"], item["dataset"]} & set(keys)]
    except (OSError, ValueError, LookupError, TypeError):
        return
    if len(kept) != len(listed):
        document["datasets"] = kept
        replace_file(path, json.dumps(document, indent=1) + "\n", durable=True)


def start_ticks(pid: int) -> int | None:
    """When a process started, in ticks since boot: tells it from a later one of the same number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _pause(new: Mapping[str, Any], old: Mapping[str, Any]) -> float:
    """Seconds that a change may wait."""
    new, old = _lasting(new), _lasting(old)
    if new == old:
        return RARELY
    return SOMETIMES if _without_counts(new) == _without_counts(old) else OFTEN


def _without_counts(document: Mapping[str, Any]) -> dict[str, Any]:
    datasets = [
        {name: value for name, value in item.items() if name not in _COUNTS}
        for item in document.get("datasets", ())
    ]
    return dict(document) | {"datasets": datasets}


def _lasting(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in _MOVING}
