"""A small configuration of the same family: same class, layer kinds, ratios; narrow and shallow."""

from __future__ import annotations

import copy
from typing import Any

import torch

VOCABULARY = 128
_HEAD_WIDTH = 16
_MLP_WIDTH = 64
_WINDOW = 4  # short test inputs already leave it

_MLP_FIELDS = (
    "intermediate_size",
    "ffn_dim",
    "ffn_hidden_size",
    "hidden_dim",
    "n_inner",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
)
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads")
_EMBEDDING_WIDTHS = ("embedding_size", "word_embed_proj_dim", "pooler_hidden_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_WINDOWS = ("sliding_window", "local_attention", "window_size")


def shrink_depth(config: Any, layers: int) -> Any:
    """A copy of the configuration with its first `layers` layers only."""
    small = copy.deepcopy(config)
    depth = int(config.num_hidden_layers)
    for name, value in vars(config).items():  # layer_types and the like: one entry per layer
        if isinstance(value, list) and len(value) == depth and not name.endswith("_token_id"):
            setattr(small, name, value[:layers])
    small.num_hidden_layers = layers
    small.use_cache = False
    small.dtype = torch.float32  # else parts that a family builds by itself are in half precision
    return small


def shrink_width(config: Any) -> Any:
    """A copy of the configuration that keeps its kind but is a few dozen channels wide.

    Multi-query stays multi-query and grouped-query grouped. The head width is kept where the
    rotary settings list one factor per channel, since those lists would no longer fit.
    """
    small = copy.deepcopy(config)
    heads = int(config.num_attention_heads)
    head = _head_width(config, heads)
    small_heads = _shrink_heads(small, heads)
    if isinstance(getattr(config, "head_dim", None), int):
        small.head_dim = head
    _cap(small, "rotary_dim", head)
    _set_hidden(small, int(config.hidden_size), small_heads * head)
    for name in _MLP_FIELDS:
        _cap(small, name, _MLP_WIDTH)
    for name in _EXPERTS:
        _cap(small, name, 4)
    _cap(small, "num_experts_per_tok", 2)
    for name in _WINDOWS:
        _cap(small, name, _WINDOW)
    return shrink_vocabulary(small)


def shrink_vocabulary(config: Any) -> Any:
    """A copy of the configuration with at most `VOCABULARY` entries, special ids inside them."""
    small = copy.deepcopy(config)
    _cap(small, "vocab_size", VOCABULARY)
    last = int(small.vocab_size) - 1
    for name, value in vars(config).items():
        if name.endswith("_token_id"):
            setattr(small, name, _within(value, last))
    return small


def _head_width(config: Any, heads: int) -> int:
    width = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    rotary = getattr(config, "rope_parameters", None)
    return int(width) if _has_list(rotary) else min(int(width), _HEAD_WIDTH)


def _has_list(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_list(entry) for entry in value.values())
    return isinstance(value, list)


def _shrink_heads(small: Any, heads: int) -> int:
    for name in _KEY_VALUE_HEADS:
        shared = getattr(small, name, None)
        if isinstance(shared, int):
            few = min(shared, 2)
            setattr(small, name, few)
            small.num_attention_heads = few if shared == heads else few * 2
            return int(small.num_attention_heads)
    small.num_attention_heads = min(heads, 2)
    return int(small.num_attention_heads)


def _set_hidden(small: Any, old: int, new: int) -> None:
    small.hidden_size = new
    for name in _EMBEDDING_WIDTHS:
        value = getattr(small, name, None)
        if isinstance(value, int):
            other = _HEAD_WIDTH if new != _HEAD_WIDTH else _HEAD_WIDTH // 2
            setattr(small, name, new if value == old else min(value, other))


def _cap(small: Any, name: str, limit: int) -> None:
    value = getattr(small, name, None)
    if isinstance(value, int) and not isinstance(value, bool):
        setattr(small, name, min(value, limit))


def _within(value: Any, last: int) -> Any:
    if isinstance(value, list):
        return [_within(entry, last) for entry in value]
    return min(value, last) if isinstance(value, int) else value
