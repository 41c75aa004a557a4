"""Numbers of bundles in words, the same in every command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def closeness_words(found: Mapping[str, Any], other: str) -> str:
    """`1.6 % off OTHER, the worst token 3.7 %; least cosine 0.9993 (799 tokens)`."""
    tokens = f" ({found['tokens']:,} tokens)" if "tokens" in found else ""
    return (
        f"{percent(found['relative_error'])} off {other}, the worst token "
        f"{percent(found.get('worst_token'))}; least cosine {number(found.get('cosine_min'))}"
        f"{tokens}"
    )


def percent(value: object) -> str:
    """A share, with two digits that count."""
    return f"{100 * value:.2g} %" if isinstance(value, int | float) else "?"


def number(value: object) -> str:
    """A measured number, with six digits that count."""
    return f"{value:.6g}" if isinstance(value, int | float) else "?"


def megabytes(size: int) -> str:
    """`1,234.5 MB` or `12.3 kB`; MB = 10^6 bytes."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"
