"""Tiny random models of every supported family, written like a directory from the Hub.

`write_tiny_model("llama", directory)` gives config.json, model.safetensors, tokenizer.json and
tokenizer_config.json: 4 layers, width 32, vocabulary 128. The same seed writes the same bytes.
Sliding windows are 4 tokens wide, so that short test inputs already leave them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_tokenizer import TINY_VOCAB, TokenizerStyle, write_tiny_tokenizer

_HEADS: dict[str, Any] = {"num_attention_heads": 4}
_GQA: dict[str, Any] = {**_HEADS, "num_key_value_heads": 2}
_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
_ALTERNATING = [
    "sliding_attention",
    "full_attention",
    "sliding_attention",
    "full_attention",
]
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# family -> fields of its configuration that differ from the class's own defaults
_DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_embd": 32,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 512,
        "initializer_range": 0.2,
        "pad_token_id": None,
    },
    "llama": {
        **_SHAPE,
        **_GQA,
        "head_dim": 8,
        "tie_word_embeddings": True,
        "rope_parameters": _LLAMA3_ROPE,
    },
    "mistral": {**_SHAPE, **_GQA, "sliding_window": 4},
    "qwen2": {
        **_SHAPE,
        **_GQA,
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 2,
    },
    "qwen3": {**_SHAPE, **_GQA, "head_dim": 8},
    "gemma2": {
        **_SHAPE,
        **_GQA,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 4,
        "layer_types": _ALTERNATING,
    },
    "gemma3": {
        **_SHAPE,
        **_GQA,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 4,
        "layer_types": _ALTERNATING,
    },
    "phi3": {**_SHAPE, **_GQA, "original_max_position_embeddings": 512, "sliding_window": 4},
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 4,
        "max_position_embeddings": 512,
        "init_std": 0.2,
        **_HEADS,
    },
    "gpt_neox": {
        **_SHAPE,
        **_HEADS,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
        },
    },
    "bloom": {"hidden_size": 32, "n_layer": 4, "n_head": 4, "initializer_range": 0.2},
    "smollm3": {**_SHAPE, **_GQA, "no_rope_layer_interval": 2},
}
_ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {**_SHAPE, **_HEADS},
    "roberta": {**_SHAPE, **_HEADS, "max_position_embeddings": 514, "type_vocab_size": 1},
    "distilbert": {
        "dim": 32,
        "hidden_dim": 64,
        "n_layers": 4,
        "n_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    },
    "mpnet": {**_SHAPE, **_HEADS, "max_position_embeddings": 514},
    "deberta-v2": {
        **_SHAPE,
        **_HEADS,
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "max_relative_positions": -1,
    },
    "modernbert": {
        **_SHAPE,
        **_HEADS,
        "local_attention": 4,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "layer_types": ["full_attention", *_ALTERNATING[:3]],
    },
}
_MODEL_TYPE = {"gemma3": "gemma3_text"}

DECODERS = tuple(_DECODERS)
ENCODERS = tuple(_ENCODERS)
FAMILIES = DECODERS + ENCODERS


def is_decoder(family: str) -> bool:
    """Whether `family` predicts the next token (so both tasks apply to it)."""
    return family in _DECODERS


def write_tiny_model(family: str, directory: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a random model of `family` with its tokenizer and return `directory`.

    Decoders are saved as causal language models, encoders as bare base models, as on the Hub.
    `overrides` replace fields of the configuration.
    """
    directory.mkdir(parents=True, exist_ok=True)
    style = TokenizerStyle.of(family)
    write_tiny_tokenizer(directory, style)
    _build(family, style, seed, overrides).save_pretrained(directory)
    return directory


def tiny_config(family: str, **overrides: Any) -> Any:
    """The configuration of the tiny model of `family`."""
    from transformers import AutoConfig

    fields = {**_DECODERS, **_ENCODERS}[family]
    ids = TokenizerStyle.of(family).config_ids()
    values = {"vocab_size": TINY_VOCAB, **ids, **fields, **overrides}
    return AutoConfig.for_model(_MODEL_TYPE.get(family, family), **values)


def _build(family: str, style: TokenizerStyle, seed: int, overrides: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    config = tiny_config(family, **overrides)
    auto = AutoModelForCausalLM if is_decoder(family) else AutoModel
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():  # biases start at 0, norms at 1: make all matter
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()
