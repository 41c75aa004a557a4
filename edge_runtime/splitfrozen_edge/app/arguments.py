"""Arguments that Python would take and nobody means."""

from __future__ import annotations


def require_list(values: object, what: str = "texts") -> None:
    """DataError for one string: Python would take it for a list of its characters."""
    if isinstance(values, str | bytes):
        from splitfrozen.errors import DataError

        raise DataError(f"give a list of {what}, not one string")
