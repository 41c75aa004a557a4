"""Progress: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import Progress

from splitfrozen_export import progress
from splitfrozen_export.progress import Steps


def watched(*, bars: bool) -> tuple[Steps, io.StringIO]:
    sink = io.StringIO()
    shown = Progress(console=Console(file=sink, force_terminal=bars), disable=not bars)
    return Steps(shown, ("One", "Two"), bars=bars), sink


def test_without_a_terminal_each_step_is_one_line() -> None:
    steps, sink = watched(bars=False)
    steps.on_step("One")
    steps.on_part(1, 3)  # too soon to say again
    steps.on_step("Two")
    assert sink.getvalue() == "One …\nTwo …\n"


def test_a_long_step_says_now_and_then_how_far_it_is(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    steps, sink = watched(bars=False)
    steps.on_step("One")
    steps.on_part(1, 3)
    assert sink.getvalue() == "One …\nOne: 33 %\n"


def test_on_a_terminal_a_part_has_a_bar_of_its_own_until_the_next_step() -> None:
    steps, _ = watched(bars=True)
    shown = steps._progress
    steps.on_step("One")
    steps.on_part(5, 20)
    assert [(task.completed, task.total) for task in shown.tasks] == [(0, 2), (5, 20)]
    steps.on_step("Two")
    assert [(task.description, task.completed) for task in shown.tasks] == [("Two", 1)]
