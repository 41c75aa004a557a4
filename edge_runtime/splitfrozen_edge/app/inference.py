"""Split inference of an app: predictions and generated text, over models that stay loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from splitfrozen.errors import DataError, RefusedError
from splitfrozen_edge.app.bundle import BundleLike, unwrap
from splitfrozen_edge.app.connection import Connection
from splitfrozen_edge.app.embedding import check_text
from splitfrozen_edge.app.loaded import Loaded
from splitfrozen_edge.data.complaints import Complaints
from splitfrozen_edge.data.rows import Row
from splitfrozen_edge.inference.predict import Prediction, classify
from splitfrozen_edge.inference.texts import chat_text, generate_text

# A newer adapter of the same name may continue another cut or base model.
_STALE = ("dataset_mismatch", "unknown_bundle", "base_model_mismatch")


def predict(
    texts: Sequence[str],
    model: str,
    wanted: BundleLike | None,
    loaded: Loaded,
    connection: Connection,
    warn: Callable[[str], None],
) -> list[Prediction]:
    """Classify texts; a bundle that was right for an earlier adapter is looked up once more."""
    rows = _rows(texts)
    for last in (False, True):
        bundle = loaded.classifying(model, wanted)
        session = loaded.session(bundle)
        try:
            with connection.shared() as client:
                return classify(rows, model, unwrap(bundle), client, session=session, warn=warn)
        except RefusedError as error:
            if last or wanted is not None or error.code not in _STALE or not loaded.forget(model):
                raise
    raise AssertionError("unreachable")


def generate(
    prompt: str | Sequence[Mapping[str, str]],
    model: str,
    wanted: BundleLike | None,
    loaded: Loaded,
    connection: Connection,
    **options: Any,
) -> Iterator[str]:
    """Yield what follows a text, or the answer to messages; the session ends with the iterator.

    `options`: those of `generate_text`.
    """
    bundle = loaded.generating(model, wanted)
    options["session"] = loaded.cached_session(bundle)
    with connection.shared() as client:
        if isinstance(prompt, str):
            yield from generate_text(prompt, model, unwrap(bundle), client, **options)
        else:
            yield from chat_text(prompt, model, unwrap(bundle), client, **options)


def _rows(texts: Sequence[str]) -> list[Row]:
    complaints = Complaints()
    for place, text in enumerate(texts, 1):
        try:
            check_text(text)
        except DataError as error:
            complaints.add(DataError(error.message, path="text", line=place))
    complaints.raise_any()
    return [Row(place, {"text": text}) for place, text in enumerate(texts, 1)]
