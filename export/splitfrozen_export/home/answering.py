"""Models as a runtime calls them: named tensors in, logits out. What the graphs are traced from.

Names and axes are those of Optimum, so that its classes load what is traced.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from splitfrozen.graph import ATTENTION_MASK, HIDDEN, INPUT_IDS, past_names, present_names
from splitfrozen_export.past.inputs import (
    PAST_AXES,
    TOTAL_AXES,
    KeyValue,
    cached_tensors,
    forms_of,
    prefilled_cache,
    upper_past_names,
    upper_present_names,
)
from splitfrozen_export.split import DeviceSegment, ServerSegment, run_segment
from splitfrozen_export.split.positions import accepts_positions, positions_from_mask
from splitfrozen_export.split.server import start_cache
from splitfrozen_export.split.stored import hollow

LOGITS = "logits"
POSITION_IDS = "position_ids"
TOKEN_TYPE_IDS = "token_type_ids"
Axes = Mapping[int, str]
_TOKENS: Axes = {0: "batch", 1: "seq"}
_COVERED: Axes = {0: "batch", 1: "total"}  # a mask over past and new tokens


class Answering(nn.Module, ABC):
    """A module whose `forward` takes tensors in the order of `inputs`, gives those of `outputs`."""

    model: Any  # what answers
    inputs: dict[str, Axes]
    outputs: dict[str, Axes]

    @abstractmethod
    def feed(self, ids: Tensor, mask: Tensor, past: list[Tensor] | None) -> dict[str, Tensor]:
        """Inputs for the tokens of `ids` int64 [batch, past + seq] that stand behind `past`.

        `mask` has the same shape; `past` None means that there is none, or for a model without
        keys and values that it takes none.
        """

    def example(self) -> dict[str, Tensor]:
        """Inputs to trace with: no free axis is 0 or 1, and no two of them are the same."""
        past = self.random_past(2, 5)
        mask = torch.ones(2, _EXAMPLE + (5 if past else 0), dtype=torch.int64)
        mask[1, :2] = 0
        return self.feed(torch.ones_like(mask), mask, past or None)

    def random_past(self, batch: int, length: int) -> list[Tensor]:
        """Keys and values of `length` tokens; empty for a model that takes none."""
        forms: list[KeyValue] = getattr(self, "forms", [])
        return [tensor for form in forms for tensor in form.random(batch, length)]


class WholeDecoder(Answering):
    """A causal language model with its past keys and values as inputs and outputs."""

    def __init__(self, model: Any) -> None:
        """Wrap the family's own causal model; no stored weight of it is read."""
        super().__init__()
        self.model = model
        token = torch.ones(1, 1, dtype=torch.int64)
        cache = DynamicCache()
        with torch.no_grad(), hollow(model):
            model(input_ids=token, past_key_values=cache, use_cache=True)
        self.forms = forms_of(cache)
        self.with_positions = accepts_positions(model)
        positions = {POSITION_IDS: _TOKENS} if self.with_positions else {}
        past = dict.fromkeys(past_names(len(self.forms)), PAST_AXES)
        self.inputs = {INPUT_IDS: _TOKENS, ATTENTION_MASK: _COVERED, **positions, **past}
        present = dict.fromkeys(present_names(len(self.forms)), TOTAL_AXES)
        self.outputs = {LOGITS: _TOKENS, **present}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Logits [batch, seq, vocabulary], then keys and values of past and new tokens."""
        given = dict(zip(self.inputs, tensors, strict=True))
        cache = prefilled_cache([given.pop(name) for name in list(given) if "past" in name])
        logits = self.model(**given, past_key_values=cache, use_cache=True).logits
        return (logits, *cached_tensors(cache))

    def feed(self, ids: Tensor, mask: Tensor, past: list[Tensor] | None) -> dict[str, Tensor]:
        past = past or self.random_past(len(ids), 0)
        first = past[0].shape[2]
        fed = {INPUT_IDS: ids[:, first:], ATTENTION_MASK: mask}
        if self.with_positions:
            fed[POSITION_IDS] = positions_from_mask(mask)[:, first:]
        return fed | dict(zip(past_names(len(self.forms)), past, strict=True))


class WholeClassifier(Answering):
    """A sequence classifier. Of a decoder, the answer at the last token that the mask shows."""

    def __init__(self, model: Any, *, decoder: bool, token_types: bool) -> None:
        """Wrap the family's own classification model."""
        super().__init__()
        self.model = model
        self.decoder = decoder
        self.with_positions = decoder and accepts_positions(model)
        types = {TOKEN_TYPE_IDS: _TOKENS} if token_types else {}
        self.inputs = {INPUT_IDS: _TOKENS, ATTENTION_MASK: _TOKENS, **types}
        self.outputs = {LOGITS: {0: "batch"}}
        if decoder:
            # The stock head looks for the last id that is not padding. Where the padding id is
            # also that of a real token, as in GPT-2, it would miss it: -1 is no token at all.
            model.config.get_text_config().pad_token_id = _PADDING
            model.get_input_embeddings().register_forward_pre_hook(_without_padding)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Logits [batch, labels]."""
        given = dict(zip(self.inputs, tensors, strict=True))
        if self.decoder:
            mask = given[ATTENTION_MASK]
            given[INPUT_IDS] = given[INPUT_IDS].masked_fill(mask == 0, _PADDING)
            if self.with_positions:
                given[POSITION_IDS] = positions_from_mask(mask)
        logits: Tensor = self.model(**given).logits
        return logits

    def feed(self, ids: Tensor, mask: Tensor, past: list[Tensor] | None) -> dict[str, Tensor]:
        assert past is None
        fed = {INPUT_IDS: ids, ATTENTION_MASK: mask, TOKEN_TYPE_IDS: torch.zeros_like(ids)}
        return {name: fed[name] for name in self.inputs}


class ServerHalf(Answering):
    """Blocks cut..L-1 and the head, from activations to logits."""

    def __init__(self, segment: ServerSegment, lower: DeviceSegment, width: int) -> None:
        """Wrap a server segment for activations [batch, seq, width], which `lower` makes."""
        super().__init__()
        self.model = segment.model
        self.cut, self.width = segment.cut, width
        self._lower = (lower,)  # in a tuple: it is no part of what is traced
        self.forms: list[KeyValue] = []
        past: dict[str, Axes] = {}
        present: dict[str, Axes] = {}
        if segment.task == "causal_lm":
            cache = start_cache(segment)
            with torch.no_grad(), hollow(self.model):
                run_segment(
                    self.model, torch.zeros(1, 1, width), torch.ones(1, 1).long(), cache=cache
                )
            self.forms = forms_of(cache, self.cut)
            past = dict.fromkeys(upper_past_names(self.cut, len(self.forms)), PAST_AXES)
            present = dict.fromkeys(upper_present_names(self.cut, len(self.forms)), TOTAL_AXES)
        self.inputs = {HIDDEN: _TOKENS, ATTENTION_MASK: _COVERED if past else _TOKENS, **past}
        self.outputs = {LOGITS: _TOKENS if past else {0: "batch"}, **present}

    def forward(self, hidden: Tensor, mask: Tensor, *past: Tensor) -> Any:
        """Logits [batch, seq, vocabulary] and keys and values, or logits [batch, labels]."""
        if not past:
            return run_segment(self.model, hidden, mask)
        cache = prefilled_cache(past, skipped=self.cut)
        logits = run_segment(self.model, hidden, mask, cache=cache)
        return (logits, *cached_tensors(cache, self.cut))

    def feed(self, ids: Tensor, mask: Tensor, past: list[Tensor] | None) -> dict[str, Tensor]:
        """Runs the lower blocks on all of `ids`."""
        (lower,) = self._lower
        with torch.no_grad():
            return self._behind(lower(ids, mask), mask, past)

    def example(self) -> dict[str, Tensor]:
        """Random activations: to trace on them, no lower block has to be read."""
        past = self.random_past(2, 5)
        mask = torch.ones(2, _EXAMPLE + (5 if past else 0), dtype=torch.int64)
        mask[1, :2] = 0
        return self._behind(torch.randn(*mask.shape, self.width), mask, past)

    def _behind(self, hidden: Tensor, mask: Tensor, past: list[Tensor] | None) -> dict[str, Tensor]:
        past = past or self.random_past(len(hidden), 0)
        first = past[0].shape[2] if past else 0
        fed = {HIDDEN: hidden[:, first:], ATTENTION_MASK: mask}
        return fed | dict(zip(upper_past_names(self.cut, len(self.forms)), past, strict=True))


def restore_padding(config: Any, declared: Any) -> None:
    """Give `config` the padding ids of the checkpoint's `declared` configuration again.

    A model of text and images has one in its inner configuration of the text too.
    """
    for changed, original in (
        (config, declared),
        (config.get_text_config(), declared.get_text_config()),
    ):
        changed.pad_token_id = getattr(original, "pad_token_id", None)


_PADDING = -1
_EXAMPLE = 3  # new tokens of an example to trace with


def _without_padding(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Look padding up as token 0: the mask hides what comes of it."""
    ids, *others = inputs
    return (ids.clamp(min=0), *others)
