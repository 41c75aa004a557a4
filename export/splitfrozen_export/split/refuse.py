"""Say no, with the reason, before any weight is read."""

from __future__ import annotations

from typing import Any

import torch

from splitfrozen.errors import ModelError
from splitfrozen_export.split.blocks import count_layers, find_blocks
from splitfrozen_export.split.classes import model_class


def check_cut(config: Any, cut: int, *, code: str | None = None) -> None:
    """Raise ModelError `model_not_supported` unless the model can be cut after `cut` blocks.

    `code` is the directory whose own modelling code may run, or None. Only shapes are built.
    """
    reason = _refusal(config)
    if reason is not None:
        raise ModelError("model_not_supported", f"{config.model_type}: {reason}")
    cls = model_class(config, "base", code=code)
    layers = count_layers(config)
    with torch.device("meta"):
        find_blocks(cls(config), layers)
    if not 1 <= cut < layers:
        raise ModelError(
            "model_not_supported",
            f"cut {cut} is out of range: {config.model_type} has {layers} blocks, so choose a cut "
            f"from 1 to {layers - 1}",
            param="cut",
        )


def _refusal(config: Any) -> str | None:
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder models have two block lists; use an encoder or a decoder"
    if config.get_text_config() is not config:
        return "models of several modalities cannot be cut; use the text-only checkpoint"
    if getattr(config, "quantization_config", None) is not None:
        return "the weights are quantized already; use the full-precision checkpoint"
    if (getattr(config, "num_kv_shared_layers", None) or 0) > 0:
        return "later layers reuse keys and values of earlier ones, which a cut would separate"
    if (getattr(config, "hidden_size_per_layer_input", None) or 0) > 0:
        return "every layer reads an embedding of the token ids, which the server must not see"
    if not isinstance(getattr(config, "num_hidden_layers", None), int):
        return "the configuration does not say how many layers there are"
    return None
