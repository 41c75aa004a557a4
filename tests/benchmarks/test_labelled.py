"""Reading labelled files, holding rows out, dealing them to devices."""

import random
from pathlib import Path

import pytest

from benchmarks.inputs import choose_inputs
from benchmarks.labelled import (
    Labelled,
    deal,
    hold_out,
    label_names,
    mix,
    read_labelled,
    write_labelled,
)
from splitfrozen.errors import DataError

ROWS = [Labelled(f"text {label} {number}", label) for label in "abcdefghij" for number in range(20)]


def test_written_rows_are_read_back(tmp_path: Path) -> None:
    rows = [Labelled("grün", "a"), Labelled("one", "b", "two")]
    for index, row in enumerate(rows):
        write_labelled(tmp_path / f"{index}.jsonl", [row])
        assert read_labelled(tmp_path / f"{index}.jsonl") == [row]


def test_ten_labels_on_five_devices_are_two_each_and_nothing_is_lost() -> None:
    parts = deal(ROWS, 5)
    assert [label_names(part) for part in parts] == [
        list(pair) for pair in ("ab", "cd", "ef", "gh", "ij")
    ]
    assert sorted(row.text for part in parts for row in part) == sorted(row.text for row in ROWS)


def test_fewer_labels_than_devices_are_shared_out() -> None:
    parts = deal(ROWS[:40], 5)
    assert [label_names(part) for part in parts] == [["a"], ["b"], ["a"], ["b"], ["a"]]
    assert [len(part) for part in parts] == [7, 10, 7, 10, 6]


def test_held_out_rows_are_chosen_by_their_text_alone() -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    training, held_out = hold_out(ROWS)
    assert set(hold_out(shuffled)[1]) == set(held_out)
    assert set(training).isdisjoint(held_out)
    assert 0.1 < len(held_out) / len(ROWS) < 0.3


def test_mixing_depends_on_the_rows_alone_and_separates_labels() -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert mix(shuffled) == mix(ROWS)
    assert len(label_names(mix(ROWS)[:40])) > 5


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('{"text": "x", "label": "a"}\n', "two labels"),
        ('{"text": "x"}\n', "label"),
        ("", "no rows"),
    ],
)
def test_a_file_that_cannot_be_classified_is_refused(
    tmp_path: Path, lines: str, reason: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(lines)
    with pytest.raises(DataError, match=reason):
        choose_inputs("model", path, None)


def test_a_held_out_label_that_training_lacks_is_refused(tmp_path: Path) -> None:
    write_labelled(tmp_path / "train.jsonl", [Labelled("x", "a"), Labelled("y", "b")])
    write_labelled(tmp_path / "heldout.jsonl", [Labelled("z", "c")])
    with pytest.raises(DataError, match="'c'"):
        choose_inputs("model", tmp_path / "train.jsonl", tmp_path / "heldout.jsonl")
