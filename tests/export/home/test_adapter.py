"""What is no adapter for this model is refused in words, before any weight is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from splitfrozen.errors import ModelError
from splitfrozen_export.home.adapter import read_adapter
from splitfrozen_export.home.fitting import check_base, check_shapes, check_tied, check_upper
from splitfrozen_export.home.task import Purpose, choose_purpose, empty_model
from splitfrozen_export.split import ModelSource, prefix_digest, resolve_model
from tests.export.home.adapters import write_adapter
from tests.tiny_models import write_tiny_model

_SAVES_TABLE = "ignore:Setting `save_embedding_layers` to `True`"


@pytest.fixture
def adapter(shallow: Callable[[str], Path], tmp_path: Path) -> Path:
    return write_adapter(shallow("gpt2"), tmp_path / "adapter", layers=(1,))


@pytest.fixture
def source(shallow: Callable[[str], Path]) -> ModelSource:
    return resolve_model(shallow("gpt2"))


def change(adapter: Path, **fields: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def check(adapter: Path, source: ModelSource, cut: int | None = None) -> None:
    found = read_adapter(adapter)
    check_base(found, source)
    model = empty_model(source, choose_purpose(source, found))
    check_shapes(found, source, model)
    check_tied(found, model)
    if cut is not None:
        check_upper(found, source, model, cut)


def test_an_adapter_of_the_model_is_accepted(adapter: Path, source: ModelSource) -> None:
    check(adapter, source)


def test_another_kind_of_adapter_is_refused(adapter: Path, source: ModelSource) -> None:
    change(adapter, peft_type="IA3")
    with pytest.raises(ModelError, match="is a IA3 adapter; only LoRA"):
        check(adapter, source)


def test_another_task_is_refused(adapter: Path, source: ModelSource) -> None:
    change(adapter, task_type="TOKEN_CLS")
    with pytest.raises(ModelError, match="must be one of CAUSAL_LM, SEQ_CLS"):
        check(adapter, source)


def test_a_directory_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no adapter_config\.json; give the directory"):
        read_adapter(tmp_path)


def test_pickled_weights_are_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="only pickled weights"):
        read_adapter(adapter)


def test_damaged_weights_are_refused(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ModelError, match="damaged"):
        read_adapter(adapter)


def test_a_deeper_models_adapter_is_refused(adapter: Path, source: ModelSource) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({key.replace("h.1.", "h.9."): v for key, v in load_file(file).items()}, file)
    with pytest.raises(ModelError, match=r"changes transformer\.h\.9\..* which this model lacks"):
        check(adapter, source)


def test_a_wider_models_adapter_is_refused(adapter: Path, source: ModelSource) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(key for key in tensors if key.endswith("c_attn.lora_A.weight"))
    save_file(tensors | {name: torch.zeros(4, 48)}, file)
    with pytest.raises(ModelError, match=r"shape \[4, 48\], and here it would be \[4, 32\]"):
        check(adapter, source)


def test_names_of_the_hub_decide_where_both_are_names(adapter: Path, source: ModelSource) -> None:
    change(adapter, base_model_name_or_path="openai-community/gpt2")
    named = ModelSource(source.path, "gpt2", None, source.config)
    check(adapter, named)
    change(adapter, base_model_name_or_path="openai-community/gpt2-medium")
    with pytest.raises(ModelError, match="it was trained on 'openai-community/gpt2-medium'"):
        check(adapter, named)
    check(adapter, source)  # a directory may be called anything


def test_the_prefix_digest_of_a_server_decides(adapter: Path, source: ModelSource) -> None:
    described = {"cut": 1, "labels": [], "prefix_digest": prefix_digest(source, 1)}
    (adapter / "splitfrozen.json").write_text(json.dumps(described))
    change(adapter, base_model_name_or_path="somebody/else")
    check(adapter, source)
    (adapter / "splitfrozen.json").write_text(json.dumps(described | {"prefix_digest": "0" * 64}))
    with pytest.raises(ModelError, match="the weights of its lower blocks differ"):
        check(adapter, source)


def test_an_encoder_without_a_head_has_nothing_to_answer(
    shallow: Callable[[str], Path],
) -> None:
    with pytest.raises(ModelError, match="encoder without a head"):
        choose_purpose(resolve_model(shallow("bert")), None)


def test_a_classifiers_adapter_without_its_head_is_refused(
    shallow: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter = write_adapter(shallow("bert"), tmp_path / "adapter", "SEQ_CLS", layers=(1,))
    file = adapter / "adapter_model.safetensors"
    save_file({key: v for key, v in load_file(file).items() if "lora_" in key}, file)
    with pytest.raises(ModelError, match="holds no classification head"):
        choose_purpose(resolve_model(shallow("bert")), read_adapter(adapter))


def test_labels_are_counted_in_the_trained_head(
    shallow: Callable[[str], Path], tmp_path: Path
) -> None:
    model = shallow("bert")
    adapter = write_adapter(model, tmp_path / "adapter", "SEQ_CLS", layers=(1,), num_labels=7)
    found = choose_purpose(resolve_model(model), read_adapter(adapter))
    assert found == Purpose("classification", 7, ())


@pytest.fixture
def untied(tmp_path: Path) -> Path:
    return write_tiny_model(
        "llama", tmp_path / "untied", num_hidden_layers=2, tie_word_embeddings=False
    )


def test_new_embeddings_are_refused_where_the_device_reads_the_old_ones(
    untied: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(
        untied, tmp_path / "adapter", layers=(1,), modules_to_save=["embed_tokens"]
    )
    check(adapter, resolve_model(untied))  # a whole model takes them
    with pytest.raises(
        ModelError, match=r"embed_tokens\.weight, which the device reads"
    ) as refusal:
        check(adapter, resolve_model(untied), cut=1)
    assert refusal.value.code == "base_model_mismatch"


def test_a_new_head_of_its_own_lies_above_the_cut(untied: Path, tmp_path: Path) -> None:
    adapter = write_adapter(untied, tmp_path / "adapter", layers=(1,), modules_to_save=["lm_head"])
    check(adapter, resolve_model(untied), cut=1)


@pytest.mark.filterwarnings(_SAVES_TABLE)
def test_a_table_with_lora_and_its_base_beside_is_accepted(untied: Path, tmp_path: Path) -> None:
    adapter = write_adapter(
        untied, tmp_path / "adapter", layers=None, target_modules=["q_proj", "embed_tokens"]
    )
    assert any(".base_layer." in name for name in read_adapter(adapter).shapes)
    check(adapter, resolve_model(untied))


@pytest.mark.filterwarnings(_SAVES_TABLE, "ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"modules_to_save": ["lm_head"]},
            r"lm_head\.weight, which this model shares with model\.embed_tokens\.weight",
        ),
        (
            {"target_modules": ["q_proj", "embed_tokens"], "layers": None},
            r"embed_tokens\.weight, which this model shares with lm_head\.weight",
        ),
        ({"trainable_token_indices": [3, 5]}, "trains single tokens"),
    ],
)
def test_a_change_of_one_use_of_a_tied_table_is_refused_for_that_reason(
    stories: Path, tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    adapter = write_adapter(stories, tmp_path / "adapter", **fields)
    with pytest.raises(ModelError, match=reason) as refusal:
        check(adapter, resolve_model(stories))
    assert refusal.value.code == "model_not_supported"
