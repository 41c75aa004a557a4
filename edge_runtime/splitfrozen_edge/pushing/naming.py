"""Labels of rows -> names of a dataset: known for a whole file, or found row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from splitfrozen.errors import DataError
from splitfrozen_edge.data.labels import resolve_labels
from splitfrozen_edge.pushing.target import Target


class FileLabels:
    """The labels of a file that was read to its end before."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def name(self, label: str) -> str:
        """DataError for a label that was not in the file."""
        if label not in self._names:
            raise DataError("the file changed while it was read; push it again")
        return self._names[label]


class StreamLabels:
    """Labels that turn up one after the other; new names are added to an open dataset."""

    def __init__(
        self,
        target: Target,
        given: tuple[str, ...],
        add: Callable[[list[str]], Mapping[str, int]],
    ) -> None:
        """`add`: names -> places of all labels, with the new ones in the dataset's list."""
        self.places: dict[str, int] = {name: i for i, name in enumerate(target.labels)}
        self._is_open = target.open_labels
        self._given = given
        self._add = add
        self._names: dict[str, str] = {}

    def name(self, label: str) -> str:
        """Asks the server when a name is new; DataError if the dataset does not take it."""
        if label not in self._names:
            self._names |= self._resolve(label)
        return self._names[label]

    def _resolve(self, label: str) -> dict[str, str]:
        # Numbers are names in an open dataset whose labels are not all numbers; so all count.
        earlier = self._names if self._is_open and not self._given else {}
        written = {known: 0 for known in (*earlier, label)}
        try:
            names = resolve_labels(
                written, known=list(self.places), is_open=self._is_open, given=self._given
            )
        except DataError as error:
            raise DataError(error.message.removeprefix(":0: ")) from None
        wanted = [*self._given, names[label]] if self._is_open else [names[label]]
        if any(name not in self.places for name in wanted):
            self.places.update(self._add(wanted))
        return {label: names[label]}
