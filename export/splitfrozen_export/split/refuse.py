"""Say no, with the reason, before any weight is read."""

from __future__ import annotations

from typing import Any

import torch

from splitfrozen.errors import ModelError
from splitfrozen_export.place import FIELDS, check_range, unsupported
from splitfrozen_export.split.blocks import count_layers, find_blocks
from splitfrozen_export.split.classes import model_class


def check_cut(config: Any, cut: int, *, code: str | None = None) -> None:
    """Raise ModelError `model_not_supported` unless the model can be cut after `cut` blocks.

    `code` is the directory whose own modelling code may run, or None. Only shapes are built.
    """
    check_support(config)
    cls = model_class(config, "base", code=code)
    layers = count_layers(config)
    with torch.device("meta"):
        find_blocks(cls(config), layers)
    check_range(config.model_type, cut, layers)


def check_support(config: Any) -> None:
    """Raise ModelError `model_not_supported` for a model that cannot be cut anywhere."""
    reason = _refusal(config)
    if reason is not None:
        raise ModelError("model_not_supported", f"{config.model_type}: {reason}")


def _refusal(config: Any) -> str | None:
    if config.get_text_config() is not config and not config.is_encoder_decoder:
        return "models of several modalities cannot be cut; use the text-only checkpoint"
    fields = {name: getattr(config, name, None) for name in FIELDS}
    if (reason := unsupported(fields)) is not None:
        return reason
    if not isinstance(getattr(config, "num_hidden_layers", None), int):
        return "the configuration does not say how many layers there are"
    return None
