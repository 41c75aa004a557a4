"""Models at real shapes with random weights: what speed, size and memory are measured on.

`write_shape("gpt2", directory)` writes a model directory as the Hub has it, so that every tool
reads it like the published model. Speed does not depend on the values of the weights; error does,
and is no claim about the real model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.real_inputs import data_root

_GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "activation_function": "gelu_new",
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "tie_word_embeddings": True,
}
_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    },
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "tie_word_embeddings": True,
}
# For tests of the benchmarks: the same code paths in seconds.
_TINY: dict[str, Any] = _GPT2 | {
    "vocab_size": 300,
    "n_positions": 256,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "bos_token_id": 256,
    "eos_token_id": 256,
}
_TINY_LLAMA: dict[str, Any] = _LLAMA | {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "gpt2": _GPT2,
    "llama-3.2-1b": _LLAMA,
    "tiny": _TINY,
    "tiny-llama": _TINY_LLAMA,
}


def write_shape(shape: str, directory: Path, *, dtype: str = "float32", seed: int = 0) -> Path:
    """Write config.json, model.safetensors and a tokenizer into `directory`, and return it.

    `dtype` is that of the stored weights, e.g. "bfloat16". The same seed gives the same weights.
    Raises KeyError for a shape that is not in SHAPES.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = SHAPES[shape]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**fields, "dtype": dtype}, indent=2) + "\n")
    config = AutoConfig.from_pretrained(directory)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=getattr(torch, dtype)
        )
    model.save_pretrained(directory)
    _write_tokenizer(fields, directory)
    return directory


def _write_tokenizer(fields: Mapping[str, Any], directory: Path) -> None:
    """GPT-2's own tokenizer for its vocabulary where it is at hand; else one token a byte."""
    root = data_root()
    known = None if root is None else root / "models" / "gpt2-tokenizer"
    if fields["vocab_size"] == _GPT2["vocab_size"] and known is not None and known.is_dir():
        for path in known.glob("*.json"):
            if path.name != "config.json":
                shutil.copyfile(path, directory / path.name)
        return
    _write_bytes_tokenizer(fields, directory)


def _write_bytes_tokenizer(fields: Mapping[str, Any], directory: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    end = "<|endoftext|>"
    vocab[end] = fields["eos_token_id"]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([end])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "model_max_length": fields.get("n_positions", fields.get("max_position_embeddings")),
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
