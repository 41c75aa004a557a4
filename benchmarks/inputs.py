"""Which model and which data a benchmark runs on: what was asked for, or the demo's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.labelled import Labelled, hold_out, label_names, read_labelled
from benchmarks.real_inputs import REPOSITORY, minilm_directory
from splitfrozen.errors import DataError

EXAMPLE = REPOSITORY / "examples" / "smart_home"


@dataclass(frozen=True)
class Inputs:
    """A model and labelled text, split."""

    model: str  # Hub id or directory
    training: list[Labelled]
    held_out: list[Labelled]


def choose_inputs(model: str | None, data: Path | None, heldout: Path | None) -> Inputs:
    """Fill in all-MiniLM-L6-v2 and the smart-home sentences where nothing was asked for.

    Raises DataError for files that cannot be used.
    """
    if data is None:
        data, heldout = EXAMPLE / "train.jsonl", heldout or EXAMPLE / "heldout.jsonl"
    training = read_labelled(data)
    if heldout is None:
        training, scored = hold_out(training)
    else:
        scored = read_labelled(heldout)
    _check(training, scored, data)
    return Inputs(model or str(minilm_directory(quiet=False)), training, scored)


def _check(training: list[Labelled], held_out: list[Labelled], path: Path) -> None:
    names = label_names(training)
    if len(names) < 2:
        raise DataError(f"classification needs two labels; found {names}", path=str(path))
    unknown = sorted({row.label for row in held_out} - set(names))
    if unknown or not held_out:
        reason = f"lacks the held-out label {unknown[0]!r}" if unknown else "leaves none held out"
        raise DataError(f"the training data {reason}", path=str(path))
