"""Labels as a file writes them -> names of a dataset. Pure.

A label that is one of the dataset's names is that name. Whole numbers (the 0 and 1 of benchmark
files) stand for places in a list of names, if all labels of the file are whole numbers in its
range: the list is `--labels`, or that of a dataset that was created with its labels. Otherwise an
open dataset takes a label as a new name, and a closed one refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from splitfrozen.errors import DataError
from splitfrozen_edge.data.complaints import Complaints


def resolve_labels(
    written: Mapping[str, int],
    *,
    known: Sequence[str],
    is_open: bool,
    given: Sequence[str] = (),
    path: str = "",
) -> dict[str, str]:
    """Map each label of a file to a dataset's name.

    `written`: label -> first line; `known`: the dataset's names; `given`: names for 0, 1, … from
    the command line. Raises DataError with the line of every label that means nothing.
    """
    if given:
        by_place = _by_place(written, given)
        if by_place is None:
            raise DataError(f"--labels needs labels 0 to {len(given) - 1} in the file", path=path)
        return _check_known(by_place, written, known, is_open=is_open, path=path)
    numeric = all(_is_number(label) for label in written)
    if not numeric or any(_is_number(name) for name in known) or not known:
        names = {label: label for label in written}
        return _check_known(names, written, known, is_open=is_open, path=path)
    if is_open:
        raise DataError(
            f"the labels are numbers, but the open dataset has the names {', '.join(known)}; "
            "say which number is which with --labels NAME,NAME,…",
            path=path,
            field="label",
        )
    names = _by_place(written, known) or {label: label for label in written}
    return _check_known(names, written, known, is_open=False, path=path)


def sort_names(names: Sequence[str]) -> list[str]:
    """The order in which new names are added: numbers by value, then the rest by alphabet."""
    distinct = sorted(set(names))
    numbers = sorted((name for name in distinct if _is_number(name)), key=int)
    return numbers + [name for name in distinct if not _is_number(name)]


def _by_place(written: Mapping[str, int], names: Sequence[str]) -> dict[str, str] | None:
    if not all(_is_number(label) and int(label) < len(names) for label in written):
        return None
    return {label: names[int(label)] for label in written}


def _check_known(
    names: dict[str, str],
    written: Mapping[str, int],
    known: Sequence[str],
    *,
    is_open: bool,
    path: str,
) -> dict[str, str]:
    if is_open:
        return names
    complaints = Complaints()
    for label, name in names.items():
        if name not in known:
            message = f"{name[:80]!r} is not a label of the dataset: {', '.join(known)}"
            complaints.add(DataError(message, path=path, line=written[label], field="label"))
    complaints.raise_any()
    return names


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9
