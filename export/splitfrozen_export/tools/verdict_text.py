"""What `verify` says: for a person, and for a script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from splitfrozen_export.tools.verdict import Check, Verdict
from splitfrozen_export.words import closeness_words, number, percent


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """For a script."""
    return {
        "bundle": verdict.id,
        "directory": str(verdict.directory),
        "ok": verdict.ok,
        "faults": verdict.faults,
        "checked": [check.subject for check in verdict.checks],
        "unchecked": verdict.unchecked,
        "signed_by": verdict.signed_by,
        "measured": verdict.measured,
    }


def verdict_lines(verdict: Verdict) -> list[str]:
    """For a person."""
    lines = [f"Bundle {verdict.id} in {verdict.directory}"]
    for check in verdict.checks:
        lines += _check_lines(check)
    lines += [f"not yet  {subject}" for subject in verdict.unchecked]
    return [*lines, "The bundle is sound." if verdict.ok else "The bundle must not be used."]


def _check_lines(check: Check) -> Iterator[str]:
    yield f"{'WRONG' if check.faults else 'ok':7}  {check.subject}"
    for fault in check.faults:
        yield f"         - {fault}"
    if not check.faults:
        for line in _measured(check.measured):
            yield f"         {line}"


def _measured(found: Mapping[str, Any]) -> Iterator[str]:
    if "relative_error" in found:
        yield f"activations at the cut are {closeness_words(found, 'the model in torch')}"
        return  # it measured the rest again
    if "neighbour_difference" in found:
        yield _changes("other texts in the batch and other padding", found["neighbour_difference"])
    if "later_token_difference" in found:
        yield _changes("later tokens", found["later_token_difference"])
    if "decoding_error" in found:
        yield f"relative error {percent(found['decoding_error'])}"


def _changes(what: str, change: float) -> str:
    bits = "not at all" if change == 0 else f"by up to {number(change)}"
    return f"{what} change an activation {bits}"
