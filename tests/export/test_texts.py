"""Texts that a user hands to an export are read, or refused with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitfrozen.errors import DataError
from splitfrozen_export.measure.loss import WINDOW, WINDOWS, cut_windows
from splitfrozen_export.measure.texts import (
    CALIBRATION_ROWS,
    read_calibration,
    read_lines,
    read_text,
)


def rows(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(content, "utf-8")
    return path


def test_rows_of_every_kind_give_their_texts(tmp_path: Path) -> None:
    path = rows(
        tmp_path,
        '{"text": "one", "label": "a"}\n\n'
        '{"text": "two", "text_pair": "and its pair"}\n'
        '{"prompt": "2 + 2 = ", "completion": "4"}\n',
    )
    assert read_calibration(path) == ("one", "two and its pair", "2 + 2 = 4")


def test_only_a_line_feed_ends_a_row(tmp_path: Path) -> None:
    """JSON allows other line separators inside a string, and scraped text has them."""
    path = rows(tmp_path, '{"text": "a\u2028b\u0085c"}\r\n{"text": "d"}\n')
    assert read_calibration(path) == ("a\u2028b\u0085c", "d")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_only_a_line_feed_ends_a_text_to_compare_on(tmp_path: Path, separator: str) -> None:
    path = rows(tmp_path, f"one{separator}still one\r\n\n  \ntwo")
    assert [line.strip() for line in read_lines(path)] == [f"one{separator}still one", "two"]


def test_a_long_file_is_read_at_even_distances(tmp_path: Path) -> None:
    path = rows(tmp_path, "".join(f'{{"text": "{n}"}}\n' for n in range(3 * CALIBRATION_ROWS)))
    texts = read_calibration(path)
    assert texts[:3] == ("0", "3", "6")
    assert len(texts) == CALIBRATION_ROWS


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "rows.jsonl: has no rows"),
        ('{"text": "a"}\nhello\n', "rows.jsonl:2: is not JSON"),
        ('["text"]\n', "rows.jsonl:1: is not a JSON object"),
        ('{"text": 3}\n', "rows.jsonl:1: text: is not a string with text in it"),
        ('{"prompt": "a", "completion": " "}\n', "rows.jsonl:1: completion: is not a string"),
        ('{"question": "a"}\n', 'rows.jsonl:1: has question; a row has "text"'),
    ],
)
def test_a_row_without_text_is_refused_where_it_stands(
    tmp_path: Path, content: str, reason: str
) -> None:
    with pytest.raises(DataError) as refused:
        read_calibration(rows(tmp_path, content))
    assert reason in str(refused.value)


def test_a_text_that_is_not_utf8_or_empty_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xff\xfe a")
    with pytest.raises(DataError, match="UTF-8"):
        read_text(path)
    path.write_bytes(b" \n")
    with pytest.raises(DataError, match="has no text"):
        read_text(path)


def test_windows_lie_evenly_over_a_text_and_each_starts_with_the_prefix() -> None:
    windows = cut_windows(range(10_000), prefix=(7,), max_length=512, path=Path("t"))
    assert len(windows) == WINDOWS
    assert {len(window) for window in windows} == {WINDOW}
    assert (windows[0][:2], windows[-1][-1]) == ([7, 0], 9_999)
    assert windows[1][1] > windows[0][-1]  # they do not overlap


def test_a_short_text_is_one_window_and_one_token_is_none() -> None:
    assert cut_windows([1, 2, 3], prefix=(), max_length=512, path=Path("t")) == [[1, 2, 3]]
    with pytest.raises(DataError, match="needs two tokens"):
        cut_windows([1], prefix=(), max_length=512, path=Path("t"))
