"""What a model is before any of its weights is read: size, positions, kind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from splitfrozen_export.split import ModelSource
from splitfrozen_export.split.classes import is_decoder, model_class

_BYTES = 4  # of one fp32 parameter
_MARGIN = 1.5  # activations, and the checkpoint's own dtype while it is read


@dataclass(frozen=True)
class Blueprint:
    """Facts from the configuration and from the shapes of an empty model."""

    parameters: int  # of the whole base model
    max_positions: int | None  # None: any length (relative positions without a table)
    causal: bool
    steady_only: bool = False  # it knows more positions, but would change tokens that stand before

    def fits(self, available: int) -> bool:
        """Whether the whole model in fp32 fits into `available` bytes of memory."""
        return self.parameters * _BYTES * _MARGIN <= available


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


def available_memory() -> int:
    """Bytes that a process can take now; where the system does not tell, half of all memory."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
