"""What cannot be cut is refused with the reason, before any weight is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from splitfrozen.errors import ModelError
from splitfrozen_export.split import (
    check_cut,
    load_device_segment,
    load_server_segment,
    prefix_digest,
    prove_cut,
    resolve_model,
)

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 128}


def refusal(config: Any, cut: int = 2) -> str:
    with pytest.raises(ModelError) as caught:
        check_cut(config, cut)
    assert caught.value.code == "model_not_supported"
    return str(caught.value)


def test_shared_layers_are_refused() -> None:
    config = AutoConfig.for_model("albert", **SMALL, embedding_size=16, intermediate_size=64)
    assert "no list of 4 separate blocks" in refusal(config)


def test_encoder_decoders_are_refused() -> None:
    assert "encoder-decoder" in refusal(AutoConfig.for_model("t5"))


def test_layers_that_reuse_keys_and_values_are_refused() -> None:
    assert "reuse keys and values" in refusal(AutoConfig.for_model("gemma3n_text"))


def test_layers_that_read_token_ids_are_refused() -> None:
    config = AutoConfig.for_model("gemma3n_text", num_kv_shared_layers=0)
    assert "embedding of the token ids" in refusal(config)


def test_models_of_several_modalities_are_refused() -> None:
    assert "text-only checkpoint" in refusal(AutoConfig.for_model("gemma3"))


def test_quantized_weights_are_refused(tiny_model: Callable[[str], Path]) -> None:
    config = resolve_model(tiny_model("llama")).config
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    assert "quantized already" in refusal(config)


@pytest.mark.parametrize("cut", [-1, 0, 4, 5])
def test_a_cut_outside_the_model_is_refused(tiny_model: Callable[[str], Path], cut: int) -> None:
    message = refusal(resolve_model(tiny_model("gpt2")).config, cut)
    assert f"cut {cut} is out of range" in message
    assert "from 1 to 3" in message


@pytest.mark.parametrize("cut", [0, 4])
def test_every_entry_point_checks_the_cut_before_reading(
    tiny_model: Callable[[str], Path], tmp_path: Path, cut: int
) -> None:
    (tmp_path / "config.json").write_text((tiny_model("bert") / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    source = resolve_model(tmp_path)
    for enter in (
        lambda: load_device_segment(source, cut),
        lambda: load_server_segment(source, cut, "classification"),
        lambda: prefix_digest(source, cut),
        lambda: prove_cut(source, cut, real=True),
    ):
        with pytest.raises(ModelError, match="out of range"):
            enter()


def test_an_encoder_is_refused_for_causal_lm(tiny_model: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="predicts no next token") as caught:
        load_server_segment(resolve_model(tiny_model("bert")), 2, "causal_lm")
    assert caught.value.param == "task"


def test_an_unknown_model_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nobody-knows"}))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="nobody-knows") as caught:
        resolve_model(tmp_path)
    assert caught.value.code == "model_not_supported"


def test_code_of_the_model_runs_only_when_trusted(tmp_path: Path) -> None:
    config = {"model_type": "own", "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="trust_remote_code"):
        resolve_model(tmp_path)


def test_pickled_weights_are_refused_with_what_to_do(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((tiny_model("bert") / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*save_pretrained") as caught:
        resolve_model(tmp_path)
    assert caught.value.code == "model_not_supported"


@pytest.mark.parametrize(
    ("files", "message"),
    [([], "no config.json"), (["config.json"], "no weights"), (["model.safetensors"], "no config")],
)
def test_an_incomplete_directory_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelError, match=message) as caught:
        resolve_model(tmp_path)
    assert caught.value.code == "model_not_found"


def test_weights_that_do_not_fit_the_configuration_are_refused(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    config = json.loads((tiny_model("llama") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6}))
    (tmp_path / "model.safetensors").write_bytes(
        (tiny_model("llama") / "model.safetensors").read_bytes()
    )
    with pytest.raises(ModelError, match="do not fit its configuration"):
        load_server_segment(resolve_model(tmp_path), 2, "causal_lm")
    with pytest.raises(ModelError, match=r"no tensor for layers\.4"):
        prefix_digest(resolve_model(tmp_path), 5)


def test_weights_of_another_width_are_refused(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    config = json.loads((tiny_model("llama") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    (tmp_path / "model.safetensors").write_bytes(
        (tiny_model("llama") / "model.safetensors").read_bytes()
    )
    with pytest.raises(ModelError, match="another shape"):
        load_device_segment(resolve_model(tmp_path), 2)
