"""Text -> token ids by a bundle's tokenizer.json. The only importer of `tokenizers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from splitfrozen.errors import ManifestError
from splitfrozen_edge.allocator import give_back


@dataclass(frozen=True)
class Encoding:
    """Token ids and, for each, the text it comes from: 0, 1, or None for a special token."""

    ids: list[int]
    parts: list[int | None]


class Tokenizer:
    """A tokenizer without padding and truncation, whatever its file says about them."""

    def __init__(self, document: str | bytes) -> None:
        """Read the content of a tokenizer.json; ManifestError `bad_manifest` if it is none."""
        raw = document.encode() if isinstance(document, str) else document
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(raw)
        except Exception as error:  # the library raises bare Exception
            raise ManifestError("bad_manifest", f"tokenizer.json is broken: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        give_back()  # parsing takes three times what the tokenizer keeps

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Read a tokenizer.json."""
        return cls(path.read_bytes())

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Encode one text or a pair with the special tokens that the tokenizer puts around it."""
        found = self._tokenizer.encode(text, pair)
        return Encoding(found.ids, found.sequence_ids)

    def encode_plain(self, text: str) -> list[int]:
        """Encode without adding special tokens; those written in the text are matched."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out; U+FFFD for bytes that are no character."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def token(self, index: int) -> str | None:
        """The text of a token id, or None if there is no such token."""
        text: str | None = self._tokenizer.id_to_token(index)
        return text
