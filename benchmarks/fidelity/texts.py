"""Real text for a model: some rows to calibrate on, others, held out, to measure on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.labelled import Labelled, hold_out, mix, read_labelled
from benchmarks.real_inputs import REPOSITORY, RealInputError
from splitfrozen_export.measure.batches import Ids
from splitfrozen_export.measure.loss import cut_windows
from splitfrozen_export.preprocess import TextSide

CALIBRATION = 32  # texts
HELD_OUT = 192  # texts to compare activations on
GRADIENT = 192  # of these, texts whose gradient is taken
MAX_LENGTH = 256  # tokens of a text
_SMART_HOME = REPOSITORY / "examples" / "smart_home" / "train.jsonl"
_LANGUAGE = ("tinystories_944k.txt", "tinyshakespeare.txt")


@dataclass(frozen=True)
class Texts:
    """Token ids; no text is in more than one of `calibration` and `held_out`."""

    name: str
    calibration: list[Ids]
    held_out: list[Ids]
    labels: list[int] | None  # classes of `held_out`; None for a language model
    windows: dict[str, list[list[int]]]  # pieces of running text to measure a loss on, by file


def labelled_texts(side: TextSide, root: Path | None, *, quick: bool) -> Texts:
    """SST-2 sentences from the data root; the smart-home sentences where there is none."""
    if root is None:
        name, (rows, held_out) = "smart_home", hold_out(mix(read_labelled(_SMART_HOME)))
    else:
        folder = root / "data" / "sst2"
        name = "sst2"
        rows, held_out = _sentences(folder / "train.tsv"), _sentences(folder / "dev.tsv")
    held_out = mix(held_out)[: HELD_OUT // 4 if quick else HELD_OUT]
    classes = sorted({row.label for row in held_out})
    return Texts(
        name,
        calibration=[_ids(side, row.text) for row in mix(rows)[:CALIBRATION]],
        held_out=[_ids(side, row.text) for row in held_out],
        labels=[classes.index(row.label) for row in held_out],
        windows={},
    )


def language_texts(side: TextSide, root: Path | None, prefix: Ids, *, quick: bool) -> Texts:
    """Pieces of the first text file of the data root; all of them to measure a loss on.

    Raises RealInputError when there is no data root.
    """
    if root is None:
        raise RealInputError("a language model needs running text: give --data-root")
    windows = {name: _windows(side, root / "data" / "text" / name, prefix) for name in _LANGUAGE}
    first = (root / "data" / "text" / _LANGUAGE[0]).read_text("utf-8")
    pieces = [piece for piece in first.split("\n") if len(piece) > 80]
    step = max(1, len(pieces) // (CALIBRATION + HELD_OUT))
    chosen = [_ids(side, piece) for piece in pieces[::step]]
    held_out = chosen[CALIBRATION : CALIBRATION + (HELD_OUT // 4 if quick else HELD_OUT)]
    return Texts(_LANGUAGE[0], chosen[:CALIBRATION], held_out, None, windows)


def _windows(side: TextSide, path: Path, prefix: Ids) -> list[list[int]]:
    ids = side.tokenizer.encode(path.read_text("utf-8"), add_special_tokens=False).ids
    return cut_windows(ids, prefix=prefix, max_length=MAX_LENGTH, path=path)


def _sentences(path: Path) -> list[Labelled]:
    lines = path.read_text("utf-8").splitlines()[1:]
    return [Labelled(text, label) for text, label in (line.rsplit("\t", 1) for line in lines)]


def _ids(side: TextSide, text: str) -> Ids:
    return side.encode(text)[:MAX_LENGTH]
