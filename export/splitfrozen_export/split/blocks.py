"""Find the list of transformer blocks in a model of any family, by structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from splitfrozen.errors import ModelError


@dataclass(frozen=True)
class Blocks:
    """The block list of one model and where it hangs, e.g. at `model.layers`."""

    path: str
    modules: nn.ModuleList


def count_layers(config: Any) -> int:
    """Number of blocks L that the configuration declares."""
    return int(config.num_hidden_layers)


def find_blocks(model: nn.Module, layers: int) -> Blocks:
    """Return the `ModuleList` of `layers` blocks.

    A model may hold other lists of the same length (experts, heads), so a list whose elements the
    family itself names as unsplittable wins, then the list with the most parameters.

    Raises ModelError `model_not_supported` when there is none (ALBERT repeats one shared layer).
    """
    named = {str(name) for name in getattr(model, "_no_split_modules", None) or ()}
    found = [
        Blocks(path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == layers
    ]
    if not found:
        raise ModelError(
            "model_not_supported",
            f"{type(model).__name__} has no list of {layers} separate blocks "
            "(shared or unlisted layers cannot be cut); use a model whose layers are separate",
        )
    return max(found, key=lambda blocks: (type(blocks.modules[0]).__name__ in named, _size(blocks)))


def _size(blocks: Blocks) -> int:
    return sum(parameter.numel() for parameter in blocks.modules.parameters())
