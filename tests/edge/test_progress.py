"""The progress line: counts, the time left, silence without a terminal."""

from __future__ import annotations

import io

import pytest

from splitfrozen_edge.progress import Line, Silent, seconds_left, show_progress, show_seconds
from splitfrozen_edge.progress_checking import Checking, told


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_the_line_shows_both_counts_and_the_slower_ones_time() -> None:
    screen, now = io.StringIO(), [0.0]
    line = Line(100, 100, screen, clock=lambda: now[0])
    now[0] = 10.0
    line.computed(50)
    line.uploaded(20)  # too soon after the last drawing
    now[0] = 11.0
    line.uploaded(5)
    line.close()
    shown = screen.getvalue().split("\r\x1b[K")
    assert shown[1] == "computed 50/100   uploaded 0/100"
    assert shown[-1] == "computed 50/100   uploaded 25/100   0:33 left\n"


@pytest.mark.parametrize(
    ("counts", "left"),
    [
        ([[0, 10], [0, 10]], None),
        ([[5, 10], [0, 10]], None),
        ([[5, 10], [2, 10]], 40.0),
        ([[0, 0], [2, 10]], 40.0),  # nothing to compute: left-overs are sent
        ([[10, 10], [10, 10]], None),
        ([[0, 0], [0, 0]], None),
    ],
)
def test_the_time_left_is_that_of_the_slower(counts: list[list[int]], left: float | None) -> None:
    assert seconds_left(counts, 10.0) == left


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0:00"), (65, "1:05"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_seconds_for_people(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


def test_without_a_terminal_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(to_compute=5, to_upload=5) as progress:
        assert isinstance(progress, Silent)
        progress.computed(5)
        progress.uploaded(5)
    assert capsys.readouterr().err == ""


def check(stream: io.StringIO, seconds: float) -> str:
    """Two passes over 128 rows, each row that long; what is shown of them."""
    now = [0.0]
    checking = Checking("a.jsonl", stream=stream, clock=lambda: now[0])

    def row() -> None:
        now[0] += seconds
        checking.row()

    with checking:
        list(told(range(128), row))
    with checking.of(128):
        list(told(range(128), row))
    return stream.getvalue()


def test_checking_is_redrawn_on_a_terminal_and_wiped_at_the_end() -> None:
    shown = check(Screen(), 0.01).split("\r\x1b[K")
    assert shown[1:3] == ["checking a.jsonl: 64 rows", "checking a.jsonl: 128 rows"]
    assert shown[-2:] == ["checking a.jsonl: 128 of 128 rows", ""]


def test_checking_is_a_line_now_and_then_in_a_log() -> None:
    assert check(io.StringIO(), 0.1).splitlines() == [
        "checking a.jsonl: 64 rows",
        "checking a.jsonl: 64 of 128 rows",
    ]


def test_a_quick_check_shows_nothing() -> None:
    assert check(Screen(), 0.001) == check(io.StringIO(), 0.001) == ""
