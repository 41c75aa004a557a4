"""Row -> token ids and what is trained on (SPEC 7). Pure but for the tokenizer it is given.

Truncation `right`: a single text keeps its first tokens; of a pair the longer text loses tokens at
its end, down to half of the room, which the shorter one (the first, if they are equal) then gets
rounded down; a prompt loses its oldest tokens behind the prefix first, then the completion its
last. Special tokens around a text are never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from splitfrozen.errors import DataError
from splitfrozen.manifest import Preprocess
from splitfrozen.wire import IGNORED_TARGET
from splitfrozen_edge.data.template import ChatTemplate


class Encoding(Protocol):
    """Token ids and, for each, the text it comes from: 0, 1, or None for a special token."""

    @property
    def ids(self) -> list[int]: ...

    @property
    def parts(self) -> list[int | None]: ...


class TextEncoder(Protocol):
    """What preprocessing needs of a tokenizer."""

    def encode(self, text: str, pair: str | None = None) -> Encoding: ...

    def encode_plain(self, text: str) -> list[int]: ...

    def token(self, index: int) -> str | None: ...


@dataclass(frozen=True)
class Encoded:
    """One example ready for the device segment."""

    ids: NDArray[np.int32]  # [tokens]
    trained_from: int | None  # first trained position; None: nothing is (classification)
    dropped: int = 0  # tokens that truncation took away

    def targets(self) -> NDArray[np.int32]:
        """Unshifted target ids [tokens]: -100 before `trained_from`."""
        targets = self.ids.copy()
        targets[: self.trained_from] = IGNORED_TARGET
        return targets


class Preprocessor:
    """Encodes rows of one bundle and task."""

    def __init__(
        self, rules: Preprocess, tokenizer: TextEncoder, *, task: str, vocab_size: int
    ) -> None:
        self._rules = rules
        self._tokenizer = tokenizer
        self._task = task
        self._vocab_size = vocab_size
        self._template: ChatTemplate | None = None

    def encode(self, row: Mapping[str, Any]) -> Encoded:
        """Encode a normalised row; DataError if it gives nothing to train on."""
        encoded = self._encode_turns(row) if self._task == "causal_lm" else self._encode_text(row)
        if len(encoded.ids) == 0:
            raise DataError("gives no tokens")
        if int(encoded.ids.max()) >= self._vocab_size:
            raise DataError(f"gives the token id {encoded.ids.max()}, unknown to the model")
        return encoded

    def _encode_text(self, row: Mapping[str, Any]) -> Encoded:
        found = self._tokenizer.encode(row["text"], row.get("text_pair"))
        ids = cut_texts(found.ids, found.parts, self._rules.max_length)
        return Encoded(_array(ids), None, len(found.ids) - len(ids))

    def _encode_turns(self, row: Mapping[str, Any]) -> Encoded:
        head, prompt, completion = self._turns(row)
        kept, answer = cut_turns(len(head), prompt, completion, self._rules.max_length)
        ids = [*head, *kept, *answer]
        if len(ids) < 2 or not answer:
            raise DataError("leaves no token to predict from another")
        dropped = len(head) + len(prompt) + len(completion) - len(ids)
        return Encoded(_array(ids), len(ids) - len(answer), dropped)

    def _turns(self, row: Mapping[str, Any]) -> tuple[list[int], list[int], list[int]]:
        """Ids of prefix, prompt and completion."""
        head = list(self._rules.prefix_ids)
        if "messages" in row:
            prompt, completion = self._messages(row["messages"])
            # A template writes its own first token; protect it as the prefix is protected.
            if prompt[: len(head)] == head:
                return head, prompt[len(head) :], completion
            return [], prompt, completion
        prompt = self._tokenizer.encode_plain(row.get("prompt", ""))
        completion = self._tokenizer.encode_plain(row["completion" if "prompt" in row else "text"])
        if self._rules.eos_token_id is not None:
            completion = [*completion, self._rules.eos_token_id]
        return head, prompt, completion

    def _messages(self, messages: Sequence[Mapping[str, str]]) -> tuple[list[int], list[int]]:
        prompt, completion = self._chat_template().split(messages)
        return self._tokenizer.encode_plain(prompt), self._tokenizer.encode_plain(completion)

    def _chat_template(self) -> ChatTemplate:
        """Made for the first row with messages: other rows need none, however broken it is."""
        if self._template is None:
            source = self._rules.chat_template
            if source is None:
                message = "the bundle's model has no chat template; use prompt and completion"
                raise DataError(message)
            self._template = ChatTemplate(source, special_tokens(self._rules, self._tokenizer))
        return self._template


def cut_texts(ids: Sequence[int], parts: Sequence[int | None], limit: int) -> list[int]:
    """Drop last tokens of a text, or of the longer of two, until `limit` tokens are left."""
    keep = _room(sum(p == 0 for p in parts), sum(p == 1 for p in parts), parts.count(None), limit)
    kept: list[int] = []
    for index, part in zip(ids, parts, strict=True):
        if part is None:
            kept.append(index)
        elif keep[part] > 0:
            keep[part] -= 1
            kept.append(index)
    return kept


def _room(first: int, second: int, special: int, limit: int) -> list[int]:
    """Tokens that each text keeps; as the tokenizers library divides them (longest first)."""
    room = limit - special
    if first + second <= room:
        return [first, second]
    if room < 1:
        raise DataError(f"the special tokens alone take the bundle's {limit} tokens")
    shorter = min(first, second, room // 2)
    return [shorter, room - shorter] if first <= second else [room - shorter, shorter]


def cut_turns(
    head: int, prompt: Sequence[int], completion: Sequence[int], limit: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Shorten prompt (oldest first), then completion (last first), to fit behind `head` tokens."""
    answer = completion[: max(0, limit - head)]
    room = limit - head - len(answer)
    return prompt[max(0, len(prompt) - room) :], answer


def special_tokens(rules: Preprocess, tokenizer: TextEncoder) -> dict[str, str]:
    """The names that chat templates use, where the bundle knows them."""
    bos = rules.prefix_ids[0] if rules.prefix_ids else None
    named = {"bos_token": bos, "eos_token": rules.eos_token_id, "pad_token": rules.pad_token_id}
    found = {name: tokenizer.token(i) for name, i in named.items() if i is not None}
    return {name: text for name, text in found.items() if text is not None}


def _array(ids: Sequence[int]) -> NDArray[np.int32]:
    return np.array(ids, np.int32)
