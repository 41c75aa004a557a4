"""What a push is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from splitfrozen_edge.outbox.room import OUTBOX_BYTES


@dataclass(frozen=True)
class PushOptions:
    """Where rows go and how they are computed."""

    dataset: str  # name or id; made (open) if it does not exist
    bundle: str | None = None  # directory or id; None: as the dataset needs
    task: str | None = None  # classification | causal_lm; None: the dataset's, or told by the rows
    fields: Mapping[str, str] | None = None  # our field -> column or key
    labels: tuple[str, ...] = ()  # names of the labels 0, 1, …
    wire: str | None = None  # codec; None: the bundle's default
    strict: bool = False  # refuse rows that would be truncated
    threads: int | None = None  # of the runtime; None: as measured on this device
    memory: str = "auto"  # auto | normal | low: how the runtime holds the weights
    quiet: bool = False  # no progress bars
    outbox_bytes: int = OUTBOX_BYTES  # of bodies that wait, at most half of the free disk


@dataclass(frozen=True)
class PushRequest:
    """A file and where it goes; the fields are those of PushOptions."""

    data: Path
    dataset: str
    bundle: str | None = None
    task: str | None = None
    fields: Mapping[str, str] | None = None
    labels: tuple[str, ...] = ()
    wire: str | None = None
    strict: bool = False
    threads: int | None = None
    memory: str = "auto"
    quiet: bool = False
    outbox_bytes: int = OUTBOX_BYTES

    @property
    def options(self) -> PushOptions:
        """All but the file."""
        return PushOptions(**{item.name: getattr(self, item.name) for item in fields(PushOptions)})
