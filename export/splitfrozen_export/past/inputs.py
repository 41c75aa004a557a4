"""Past keys and values of a decoder as plain tensors: the form in which a graph takes them.

Every layer keeps all of its keys, also one with a sliding window: the mask hides what is outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from splitfrozen.errors import ModelError
from splitfrozen.graph import past_names, present_names

PAST_AXES = {0: "batch", 2: "past"}
TOTAL_AXES = {0: "batch", 2: "total"}


@dataclass(frozen=True)
class KeyValue:
    """Form of what one block keeps: keys [batch, heads, past, key_width], values likewise."""

    heads: int
    key_width: int
    value_width: int

    def random(self, batch: int, past: int) -> tuple[Tensor, Tensor]:
        """Keys and values of no particular tokens."""
        widths = (self.key_width, self.value_width)
        key, value = (torch.randn(batch, self.heads, past, width) for width in widths)
        return key, value


def require_plain_cache(config: Any) -> None:
    """Raise ModelError `model_not_supported` for layers that keep anything but keys and values."""
    layers = DynamicCache(config=config).layers
    strange = {type(layer).__name__ for layer in layers if not isinstance(layer, DynamicLayer)}
    if strange:
        raise ModelError(
            "model_not_supported",
            f"{config.model_type}: some layers keep a state that is no keys and values "
            f"({', '.join(sorted(strange))}); a graph for generation cannot take it",
        )


def forms_of(cache: Cache, first: int = 0) -> list[KeyValue]:
    """What the blocks from `first` on keep, seen in a cache that they have filled."""
    forms = []
    tensors = cached_tensors(cache, first)
    for key, value in zip(tensors[::2], tensors[1::2], strict=True):
        forms.append(KeyValue(key.shape[1], key.shape[3], value.shape[3]))
    return forms


def upper_past_names(first: int, count: int) -> list[str]:
    """Graph inputs that hold the past of blocks first..first+count-1."""
    return past_names(first + count)[2 * first :]


def upper_present_names(first: int, count: int) -> list[str]:
    """Graph outputs that hold past and present of the same blocks."""
    return present_names(first + count)[2 * first :]


def prefilled_cache(past: Sequence[Tensor], skipped: int = 0) -> DynamicCache:
    """A cache that holds `past`: keys and values of one block after the other.

    The first `skipped` layers, which belong to no block here, get phantoms one channel wide:
    length and mask are read from the first layer.
    """
    cache = DynamicCache()
    keys = past[0]
    phantom = keys.new_zeros(keys.shape[0], 1, keys.shape[2], 1)
    pairs = [(phantom, phantom)] * skipped + list(zip(past[::2], past[1::2], strict=True))
    for index, (key, value) in enumerate(pairs):
        cache.update(key, value, index)
    return cache


def cached_tensors(cache: Cache, first: int = 0) -> list[Tensor]:
    """Keys and values of the blocks from `first` on, one after the other."""
    layers: list[Any] = cache.layers[first:]
    return [tensor for layer in layers for tensor in (layer.keys, layer.values)]
