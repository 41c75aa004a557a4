"""Progress of a push on standard error. rich is loaded only when there is a terminal to draw on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Told by the stages of a push, from any thread."""

    def computed(self, examples: int) -> None: ...

    def uploaded(self, examples: int) -> None: ...


class Silent:
    """Shows nothing."""

    def computed(self, examples: int) -> None:
        """Ignore."""

    def uploaded(self, examples: int) -> None:
        """Ignore."""


@contextmanager
def show_progress(*, to_compute: int, to_upload: int, quiet: bool = False) -> Iterator[Progress]:
    """Two bars, examples computed and examples confirmed; nothing without a terminal."""
    if quiet or not sys.stderr.isatty():
        yield Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        compute = bars.add_task("computed", total=to_compute)
        upload = bars.add_task("uploaded", total=to_upload)

        class Drawn:
            def computed(self, examples: int) -> None:
                bars.advance(compute, examples)

            def uploaded(self, examples: int) -> None:
                bars.advance(upload, examples)

        yield Drawn()
