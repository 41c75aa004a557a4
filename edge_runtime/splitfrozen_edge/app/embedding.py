"""Texts -> activations at the cut, as floating point. Nothing leaves the device here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from splitfrozen.bundle import Bundle
from splitfrozen.errors import DataError
from splitfrozen.graph import HIDDEN, TOKENIZER
from splitfrozen_edge.data.complaints import Complaints
from splitfrozen_edge.data.preprocess import Encoded, Preprocessor
from splitfrozen_edge.data.tokenizer import Tokenizer
from splitfrozen_edge.model.batches import plan_batches
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_edge.pushing.collect import Example, pad


class Embedder:
    """Tokenizer and session of one bundle. Threads may share it: both only read."""

    def __init__(self, bundle: Bundle, session: DeviceSession) -> None:
        self._session = session
        self._preprocessor = Preprocessor(
            bundle.manifest.preprocess,
            Tokenizer.from_file(bundle.path(TOKENIZER)),
            task="inference",
            vocab_size=bundle.manifest.vocab_size,
        )

    def embed(self, texts: Iterable[str]) -> list[NDArray[np.float32]]:
        """One array [tokens, d] for every text, in order; DataError lists the unusable ones."""
        examples = self._encode(texts)
        found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(examples)
        for places in plan_batches([len(example.encoded.ids) for example in examples]):
            batch = [examples[place] for place in places]
            hidden = self._session.run(*pad(batch))[HIDDEN]
            for row, place in enumerate(places):
                # A copy: a view would keep the whole padded batch in memory.
                found[place] = hidden[row, : len(examples[place].encoded.ids)].copy()
        return found

    def _encode(self, texts: Iterable[str]) -> Sequence[Example]:
        examples: list[Example] = []
        complaints = Complaints()
        for place, text in enumerate(texts, 1):
            try:
                examples.append(Example(place, self._encode_one(text)))
            except DataError as error:
                complaints.add(DataError(error.message, path="text", line=place))
        complaints.raise_any()
        return examples

    def _encode_one(self, text: str) -> Encoded:
        check_text(text)
        return self._preprocessor.encode({"text": text})


def check_text(text: str) -> None:
    """DataError for what no tokenizer takes: not text at all, or half of a surrogate pair."""
    if not isinstance(text, str):
        raise DataError(f"is {type(text).__name__}, not text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError("has half of a surrogate pair") from None
