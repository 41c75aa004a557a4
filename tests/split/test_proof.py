"""The proof of a cut runs on a random twin that keeps what matters, and notices a wrong cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from splitfrozen_export.split import Proof, prove_cut, resolve_model
from splitfrozen_export.split.twin import build_twin, twin_config
from tests.tiny_models import FAMILIES, write_tiny_model

# Fields of real checkpoints that differ from the configuration classes' own defaults.
REAL: dict[str, dict[str, Any]] = {
    "llama": {  # Llama-3.2-1B
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "phi3": {  # Phi-3-mini-128k
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 48,
            "long_factor": [2.0] * 48,
            "original_max_position_embeddings": 4096,
        },
    },
    "deberta-v2": {  # deberta-v3-base
        "hidden_size": 768,
        "pooler_hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    },
    "opt": {  # OPT-350m
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "word_embed_proj_dim": 512,
        "do_layer_norm_before": False,
    },
    "bloom": {"hidden_size": 1024, "n_layer": 24, "n_head": 16},
}


def real_config(family: str) -> Any:
    """The configuration of a checkpoint of real size; nothing is built from it."""
    model_type = {"gemma3": "gemma3_text"}.get(family, family)
    return AutoConfig.for_model(model_type, **REAL.get(family, {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_proof_gives_zero_on_twin_and_model(
    tiny_model: Callable[[str], Path], family: str
) -> None:
    assert prove_cut(resolve_model(tiny_model(family)), 1, real=True) == Proof(0.0, 0.0)


def test_the_model_itself_is_left_alone_unless_asked_for(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((tiny_model("gpt2") / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    assert prove_cut(resolve_model(tmp_path), 3, real=False) == Proof(0.0, None)


def test_the_proof_notices_a_layer_that_reads_below_the_cut(tmp_path: Path) -> None:
    """DeBERTa's convolution after block 0 reads the embeddings, which a cut at 1 discards."""
    directory = write_tiny_model("deberta-v2", tmp_path / "model", conv_kernel_size=3)
    source = resolve_model(directory)
    assert prove_cut(source, 1, real=False).twin_difference > 1e-3
    assert prove_cut(source, 2, real=False).twin_difference == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_real_size_has_a_small_twin_of_the_same_kind(family: str) -> None:
    config = real_config(family)
    small = twin_config(config, 6)
    assert type(small) is type(config)
    assert small.num_hidden_layers == 6
    assert (getattr(small, "layer_types", None) or []) == kinds(config)[:6]
    assert small.hidden_size <= 256
    assert grouped(small) == grouped(config)
    size = sum(parameter.numel() for parameter in build_twin(small, "base").parameters())
    assert size < 4_000_000


def grouped(config: Any) -> bool:
    heads = config.num_attention_heads
    return bool(getattr(config, "num_key_value_heads", heads) != heads)


def kinds(config: Any) -> list[str]:
    return list(getattr(config, "layer_types", None) or [])
