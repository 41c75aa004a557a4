"""Which models the measurements of precision look at, and on which texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.fidelity.texts import Texts, labelled_texts, language_texts
from benchmarks.real_inputs import data_root, minilm_directory
from splitfrozen_export.blueprint import read_blueprint
from splitfrozen_export.preprocess import prefix_ids, read_text_side
from splitfrozen_export.quiet import silence_transformers
from splitfrozen_export.split import ModelSource


def choose_models(
    model: str | None, cut: int | None, root: Path | None
) -> Iterator[tuple[str, int]]:
    """(Model, cut): the one that was asked for, or the two small real ones."""
    if model is not None and cut is not None:
        yield model, cut
        return
    yield str(minilm_directory(quiet=False)), 4
    known = data_root(root)
    if known is not None:
        yield str(known / "models" / "stories260K"), 2


def choose_texts(source: ModelSource, root: Path | None, *, quick: bool) -> Texts:
    """Running text for a decoder, labelled rows for an encoder. `root`: of the real data."""
    silence_transformers()
    side = read_text_side(source)
    if read_blueprint(source).causal:
        return language_texts(side, root, prefix_ids(side.tokenizer), quick=quick)
    return labelled_texts(side, root, quick=quick)
