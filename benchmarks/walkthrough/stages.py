"""What the demo shows while it works: a bar per running stage, a line per finished one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

TITLE_WIDTH = 44
DETAIL_WIDTH = 36


@dataclass(frozen=True)
class Stage:
    """One running stage."""

    progress: Progress
    task: TaskID

    def detail(self, text: str) -> None:
        """Say in a few words what is going on."""
        self.progress.update(self.task, detail=text[:DETAIL_WIDTH])

    def advance_to(self, done: int, total: int | None) -> None:
        """Fill the bar; without a total it only shows that something happens."""
        self.progress.update(self.task, completed=done, total=total)


class Stages:
    """The live display, on standard error: standard output is for the report."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn(f"{{task.description:{TITLE_WIDTH}}}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Stages:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Show a bar while the block runs, and a line with its time when it ended well."""
        task = self._progress.add_task(title, total=None, detail="")
        started = time.monotonic()
        try:
            yield Stage(self._progress, task)
            seconds = time.monotonic() - started
            self._console.print(f"[green]✓[/green] {title:{TITLE_WIDTH}} {seconds:6.1f} s")
        finally:
            self._progress.remove_task(task)
