"""Collects what is wrong with a data file, so that a user mends many rows at once."""

from __future__ import annotations

from splitfrozen.errors import DataError

LIMIT = 20  # complaints shown; checking stops there


class Complaints:
    """Errors of rows, in file order; raised together."""

    def __init__(self) -> None:
        self._errors: list[DataError] = []

    def add(self, error: DataError) -> None:
        """Keep an error; raise all kept ones when the limit is reached."""
        self._errors.append(error)
        if len(self._errors) >= LIMIT:
            self.raise_any()

    def raise_any(self) -> None:
        """Raise the one error as it is, or several as one DataError with a line for each."""
        if not self._errors:
            return
        if len(self._errors) == 1:
            raise self._errors[0]
        more = "at least " if len(self._errors) >= LIMIT else ""
        lines = "\n".join(f"  {error}" for error in self._errors)
        first = self._errors[0]
        joined = DataError(f"{more}{len(self._errors)} rows cannot be used:\n{lines}")
        joined.path, joined.line, joined.field = first.path, first.line, first.field
        raise joined
