"""Numbers and names of labels -> names of a dataset."""

from __future__ import annotations

import pytest

from splitfrozen.errors import DataError
from splitfrozen_edge.data.labels import resolve_labels, sort_names

NAMES = ("negative", "positive")


def test_numbers_are_places_in_a_closed_list() -> None:
    found = resolve_labels({"1": 2, "0": 3}, known=NAMES, is_open=False)
    assert found == {"1": "positive", "0": "negative"}


def test_names_stay_names() -> None:
    found = resolve_labels({"positive": 2}, known=NAMES, is_open=False)
    assert found == {"positive": "positive"}


def test_numbers_that_are_names_are_names() -> None:
    assert resolve_labels({"1": 2}, known=("1", "0"), is_open=False) == {"1": "1"}


def test_an_empty_open_dataset_takes_numbers_as_names() -> None:
    assert resolve_labels({"1": 2, "7": 3}, known=(), is_open=True) == {"1": "1", "7": "7"}


def test_an_open_dataset_takes_new_names() -> None:
    assert resolve_labels({"warm": 2}, known=NAMES, is_open=True) == {"warm": "warm"}


def test_numbers_beside_names_of_an_open_dataset_are_ambiguous() -> None:
    with pytest.raises(DataError, match="--labels NAME"):
        resolve_labels({"1": 2}, known=NAMES, is_open=True)


def test_given_names_say_which_number_is_which() -> None:
    found = resolve_labels({"1": 2}, known=NAMES, is_open=True, given=("negative", "positive"))
    assert found == {"1": "positive"}


@pytest.mark.parametrize("written", [{"2": 5}, {"neutral": 5}, {"1": 4, "positive": 5, "x": 5}])
def test_a_label_that_a_closed_dataset_lacks_has_its_line(written: dict[str, int]) -> None:
    with pytest.raises(DataError, match=r"d\.csv:5: label: .* is not a label of the dataset"):
        resolve_labels(written, known=NAMES, is_open=False, path="d.csv")


def test_given_names_must_cover_the_numbers() -> None:
    with pytest.raises(DataError, match="labels 0 to 1"):
        resolve_labels({"2": 5}, known=(), is_open=True, given=NAMES)


def test_new_names_are_added_numbers_first_by_value() -> None:
    assert sort_names(["b", "10", "a", "9", "a"]) == ["9", "10", "a", "b"]
