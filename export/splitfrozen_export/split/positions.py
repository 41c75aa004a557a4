"""Positions and stand-in token ids that both segments derive from the mask alone."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


def positions_from_mask(attention_mask: Tensor) -> Tensor:
    """Position ids [batch, tokens] that count real tokens only, so padding may stand left or right.

    They are expanded over the batch on purpose: the ONNX RotaryEmbedding needs one row per example.
    """
    return (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)


def accepts_positions(model: nn.Module) -> bool:
    """Whether the model's forward takes `position_ids` (BLOOM's does not)."""
    return _takes(model, "position_ids")


def accepts_keeping(model: nn.Module) -> bool:
    """Whether the model's forward can leave out the logits of all but the last tokens."""
    return _takes(model, "logits_to_keep")


def stand_in_ids(attention_mask: Tensor, pad_token_id: int) -> Tensor:
    """Token ids [batch, tokens] that are padding exactly where the mask is 0.

    The server never sees the real ids. Whatever it embeds is discarded at the cut, but the stock
    classification heads of decoders look for the last id that is not padding.
    """
    filler = 1 if pad_token_id == 0 else 0
    ids = torch.full_like(attention_mask, filler, dtype=torch.long)
    return ids.masked_fill(attention_mask == 0, pad_token_id)


def _takes(model: nn.Module, argument: str) -> bool:
    kind: Any = type(model)
    return argument in _arguments(kind)


@cache
def _arguments(kind: Any) -> frozenset[str]:
    """Names that a class's forward takes; kept, since decoding asks at every token."""
    return frozenset(inspect.signature(kind.forward).parameters)
