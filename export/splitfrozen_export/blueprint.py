"""What a model is before any of its weights is read: size, positions, kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from splitfrozen_export.split import ModelSource
from splitfrozen_export.split.classes import is_decoder, model_class


@dataclass(frozen=True)
class Blueprint:
    """Facts from the configuration and from the shapes of an empty model."""

    parameters: int  # of the whole base model
    max_positions: int | None  # None: any length (relative positions without a table)
    causal: bool
    steady_only: bool = False  # it knows more positions, but would change tokens that stand before


def read_blueprint(source: ModelSource) -> Blueprint:
    """Build the base model without memory for its weights and look at it."""
    cls = model_class(source.config, "base", code=source.code)
    with torch.device("meta"):
        model = cls(source.config)
    count = sum(parameter.numel() for parameter in model.parameters())
    known, steady = position_limit(model, source.config), steady_positions(source.config)
    limit = min((number for number in (known, steady) if number is not None), default=None)
    return Blueprint(count, limit, is_decoder(source.config), steady_only=limit != known)


def position_limit(model: nn.Module, config: Any) -> int | None:
    """Tokens that the model has positions for, or None.

    RoBERTa's kind starts to count behind the padding id, so its table is longer than its texts.
    """
    limits = [getattr(config, "max_position_embeddings", None)]
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - first)
    found = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return min(found, default=None)


def steady_positions(config: Any) -> int | None:
    """Tokens up to which rotary factors stay what they are, or None where they always do.

    `longrope` and `dynamic` choose other factors for all positions as soon as one text of a batch
    is longer: then an activation would depend on later tokens and on its neighbours.
    """
    rotary = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in rotary.values() if isinstance(value, dict)]
    limits = [_steady(parameters, config) for parameters in nested or [rotary]]
    return min((limit for limit in limits if limit is not None), default=None)


def _steady(rotary: dict[str, Any], config: Any) -> int | None:
    if rotary.get("rope_type") not in ("longrope", "dynamic"):
        return None
    original = rotary.get("original_max_position_embeddings")
    return int(original or config.max_position_embeddings)
