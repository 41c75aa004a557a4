"""Which columns of a file hold text, label, prompt and completion. Pure.

Known without flags: text | text, text_pair | prompt, completion | messages, and the columns of
common benchmarks. Any other file needs `--fields text=review,label=stars`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from splitfrozen.errors import DataError

_PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)
_SINGLES = ("text", "sentence")
_TURNS = (("prompt", "completion"), ("question", "answer"), ("instruction", "output"))
_LABEL = "label"

_COMBINATIONS = {  # fields that belong together -> the tasks that can use them
    ("text",): ("causal_lm", "inference"),
    ("text", "text_pair"): ("inference",),
    ("label", "text"): ("classification", "causal_lm", "inference"),
    ("label", "text", "text_pair"): ("classification", "inference"),
    ("completion", "prompt"): ("causal_lm",),
    ("messages",): ("causal_lm",),
}
_NEEDS = {
    "classification": "text and label (or text, text_pair and label)",
    "causal_lm": "prompt and completion, or messages, or text",
    "inference": "text (or text and text_pair)",
}


@dataclass(frozen=True)
class Shape:
    """Where a task's fields are in a record."""

    task: str  # classification | causal_lm | inference
    columns: Mapping[str, str]  # our field -> the file's column
    ignored: str | None = None  # the column of labels, if the task uses none


def parse_fields(items: Sequence[str]) -> dict[str, str]:
    """Read `("text=review,label=stars",)` into field -> column; DataError if it is malformed."""
    found: dict[str, str] = {}
    for item in (part for text in items for part in text.split(",")):
        field, equals, column = item.partition("=")
        if not equals or not column:
            raise DataError(f"--fields takes field=column, comma-separated; not {item!r}")
        if field in found:
            raise DataError(f"--fields names {field} twice")
        found[field] = column
    if found and tuple(sorted(found)) not in _COMBINATIONS:
        known = "; ".join(", ".join(fields) for fields in _COMBINATIONS)
        raise DataError(
            f"--fields with {', '.join(sorted(found))} makes no row; use one of: {known}"
        )
    return found


def detect_shape(
    columns: Collection[str], task: str | None, fields: Mapping[str, str] | None = None
) -> Shape:
    """Find a task's fields among the columns of the first record.

    Without a task: classification where there is a label, causal_lm otherwise. Raises DataError
    that lists the columns when nothing fits.
    """
    candidates = [dict(fields)] if fields else list(_detect(columns))
    for candidate in candidates:
        tasks = _COMBINATIONS[tuple(sorted(candidate))]
        if task is None or task in tasks:
            used = _only_used(candidate, task)
            ignored = None if "label" in used else candidate.get("label")
            return _require(columns, Shape(task or tasks[0], used, ignored))
    listed = ", ".join(sorted(columns)) or "none"
    if task is None:
        raise DataError(f"no known columns among: {listed}. Say which with --fields text=…,label=…")
    raise DataError(
        f"task {task} needs {_NEEDS[task]}; the columns are: {listed}. "
        "If they have other names, say which with --fields"
    )


def _detect(columns: Collection[str]) -> list[dict[str, str]]:
    """All readings of the columns, the most telling first."""
    label = {"label": _LABEL} if _LABEL in columns else {}
    found: list[dict[str, str]] = []
    if "messages" in columns:
        found.append({"messages": "messages"})
    pairs = [{"text": a, "text_pair": b} for a, b in _PAIRS if a in columns and b in columns]
    texts = [*pairs, *({"text": name} for name in _SINGLES if name in columns)]
    turns = [{"prompt": a, "completion": b} for a, b in _TURNS if a in columns and b in columns]
    if label:
        return [*found, *({**text, **label} for text in texts), *turns, *texts]
    return [*found, *turns, *texts]


def _only_used(candidate: Mapping[str, str], task: str | None) -> dict[str, str]:
    unused = ("label",) if task in ("causal_lm", "inference") else ()
    return {field: column for field, column in candidate.items() if field not in unused}


def _require(columns: Collection[str], shape: Shape) -> Shape:
    for field, column in shape.columns.items():
        if column not in columns:
            listed = ", ".join(sorted(columns))
            raise DataError(f"--fields {field}={column}: no such column; there are: {listed}")
    return shape
