"""Tokenizer files and the preprocessing part of the manifest: text -> ids on a device.

The device reads `tokenizer.json` with the `tokenizers` library alone, so all that Transformers
adds around it is resolved here: special tokens, the chat template, what starts a prompt.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from splitfrozen.errors import ModelError, SplitFrozenError
from splitfrozen.graph import TOKENIZER
from splitfrozen.manifest import Preprocess
from splitfrozen_export.split import ModelSource

DEFAULT_MAX_LENGTH = 512
_PROBE = "a b"  # any text of at least one token


@dataclass(frozen=True)
class TextSide:
    """How one model turns text into token ids."""

    tokenizer: Tokenizer  # without padding and truncation
    chat_template: str | None
    eos_token_id: int | None
    pad_token_id: int | None

    def encode(self, text: str) -> list[int]:
        """Token ids of one text with its special tokens, at any length."""
        return list(self.tokenizer.encode(text).ids)


def read_text_side(source: ModelSource) -> TextSide:
    """Load the tokenizer of a model.

    Raises ModelError `model_not_supported` when the model has no fast tokenizer.
    """
    loaded = _load_tokenizer(source)
    raw = getattr(loaded, "backend_tokenizer", None)
    text = raw.to_str() if raw is not None else _tokenizer_file(source).read_text("utf-8")
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if not tokenizer.encode(_PROBE, add_special_tokens=False).ids:
        # Transformers makes up an empty one for a directory that has none
        raise _no_fast_tokenizer(source, "")
    config = source.config
    return TextSide(
        tokenizer,
        _chat_template(loaded),
        _known_id("eos_token_id", (loaded, config), config.vocab_size),
        _known_id("pad_token_id", (loaded, config), config.vocab_size),
    )


def describe(
    side: TextSide,
    *,
    limit: int | None,
    max_length: int | None,
    causal: bool,
    steady_only: bool = False,
) -> Preprocess:
    """The manifest's preprocessing part for a model of at most `limit` positions.

    `max_length` None means 512, or `limit` where that is less. `steady_only` says that the model
    goes on above `limit` with other rotary factors. Raises SplitFrozenError `invalid_request`
    when `max_length` asks for more than `limit`.
    """
    if max_length is not None and limit is not None and max_length > limit:
        reason = f"--max-length {max_length} is more than the model's {limit} positions"
        if steady_only:
            reason += (
                " before its rotary factors change with the length of the text (longrope, "
                "dynamic): a token's activation would depend on later tokens"
            )
        raise SplitFrozenError("invalid_request", reason, param="max_length")
    length = max_length or min(DEFAULT_MAX_LENGTH, limit or DEFAULT_MAX_LENGTH)
    return Preprocess(
        max_length=length,
        truncation="right",
        prefix_ids=prefix_ids(side.tokenizer) if causal else (),
        eos_token_id=side.eos_token_id,
        pad_token_id=side.pad_token_id,
        chat_template=side.chat_template,
    )


def prefix_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """What the tokenizer puts before a single text, e.g. the id of `<s>`."""
    framed = list(tokenizer.encode(_PROBE).ids)
    plain = list(tokenizer.encode(_PROBE, add_special_tokens=False).ids)
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return tuple(framed[:start])
    return ()


def write_tokenizer(side: TextSide, directory: Path) -> None:
    """Write tokenizer.json, which neither pads nor truncates."""
    (directory / TOKENIZER).write_text(side.tokenizer.to_str(pretty=False), "utf-8")


def _load_tokenizer(source: ModelSource) -> Any:
    """The Transformers tokenizer, or None when only a bare tokenizer.json can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = AutoTokenizer.from_pretrained(
                source.path, config=source.config, trust_remote_code=source.trust_remote_code
            )
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        if _tokenizer_file(source).is_file():
            return None
        raise _no_fast_tokenizer(source, f": {error}") from error
    if not getattr(loaded, "is_fast", False) and not _tokenizer_file(source).is_file():
        raise _no_fast_tokenizer(source, "")
    return loaded


def _tokenizer_file(source: ModelSource) -> Path:
    return source.path / TOKENIZER


def _no_fast_tokenizer(source: ModelSource, reason: str) -> ModelError:
    return ModelError(
        "model_not_supported",
        f"{source.id!r} has no fast tokenizer (tokenizer.json), which a device needs{reason}",
    )


def _chat_template(loaded: Any) -> str | None:
    """The template's text; of several named ones, the default."""
    template = getattr(loaded, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def _known_id(name: str, holders: Sequence[Any], vocab_size: int) -> int | None:
    """The first id called `name` that the model has a row for.

    Configurations may list several ends of text, and say -1 where they mean none.
    """
    for holder in holders:
        value = getattr(holder, name, None)
        for candidate in value if isinstance(value, (list, tuple)) else (value,):
            if type(candidate) is int and 0 <= candidate < vocab_size:
                return candidate
    return None
