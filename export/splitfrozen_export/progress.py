"""Progress on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

_EVERY = 10.0  # seconds between plain lines of one step


class Steps:
    """Tells which step runs, for how long, how much of it is done, and how many are left."""

    def __init__(self, progress: Progress, names: Sequence[str], *, bars: bool) -> None:
        self._progress = progress
        self._names = names
        self._bars = bars
        self._all: TaskID = progress.add_task("Starting", total=len(names))
        self._part: TaskID | None = None
        self._step = ""
        self._said = 0.0

    def on_step(self, step: str) -> None:
        """A step begins; one that `names` lacks moves no bar."""
        self._step, self._said = step, time.monotonic()
        self._end_part()
        done = self._names.index(step) if step in self._names else None
        self._progress.update(self._all, description=step, completed=done)
        if not self._bars:
            self._progress.console.print(f"{step} …")

    def on_part(self, done: int, total: int) -> None:
        """`done` of `total` units (tensors, batches, bytes) of the running step are done."""
        if self._bars:
            if self._part is None:
                self._part = self._progress.add_task("", total=total)
            self._progress.update(self._part, completed=done, total=total)
        elif time.monotonic() - self._said > _EVERY:
            self._said = time.monotonic()
            self._progress.console.print(f"{self._step}: {100 * done // max(total, 1)} %")

    def on_note(self, text: str) -> None:
        """Something that a person should know while a step runs; it stays on the screen."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _end_part(self) -> None:
        if self._part is not None:
            self._progress.remove_task(self._part)
            self._part = None


@contextmanager
def show_progress(names: Sequence[str]) -> Iterator[Steps]:
    """Show the steps `names` while the block runs; on a terminal the bars then vanish."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:36}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        yield Steps(progress, names, bars=shown)
