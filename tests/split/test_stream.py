"""A streamed segment computes the same bits as a loaded one and holds none of its weights."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from splitfrozen.errors import ModelError
from splitfrozen_export.split import (
    load_device_segment,
    load_server_segment,
    load_whole_model,
    prove_cut,
    resolve_model,
    run_segment,
    weights,
)
from splitfrozen_export.split.checkpoint import StoredTensor
from splitfrozen_export.split.stored import StoredParameter
from tests.split.inputs import LABELS, load_stock, make_ids, make_mask
from tests.tiny_models import FAMILIES, is_decoder, write_tiny_model

CUT = 2


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers' own loading, which reads whole files, must not be needed."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the checkpoint was loaded by Transformers")

    monkeypatch.setattr(weights, "_load_stock", refuse)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """What is read from a checkpoint: (file, number of values)."""
    seen: list[tuple[str, int]] = []
    fill = StoredTensor._fill

    def note(self: StoredTensor, target: Tensor, first: int) -> None:
        seen.append((self.file.name, target.numel()))
        fill(self, target, first)

    monkeypatch.setattr(StoredTensor, "_fill", note)
    yield seen


def inputs(source: Any) -> tuple[Tensor, Tensor]:
    mask = make_mask("right")
    return make_ids(source.config, mask), mask


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("plain")
def test_streamed_and_loaded_segments_give_the_same_bits(
    tiny_model: Callable[[str], Path], family: str
) -> None:
    source = resolve_model(tiny_model(family))
    ids, mask = inputs(source)
    task = "causal_lm" if is_decoder(family) else "classification"
    answers = []
    for stream in (False, True):
        device = load_device_segment(source, CUT, stream=stream)
        server = load_server_segment(source, CUT, task, num_labels=LABELS, stream=stream)
        whole = load_whole_model(source, task, num_labels=LABELS, stream=stream)
        with torch.no_grad():
            hidden = device(ids, mask)
            logits = run_segment(server, hidden, mask)
            answers.append((hidden, logits, whole(input_ids=ids, attention_mask=mask).logits))
    for loaded, streamed in zip(*answers, strict=True):
        assert torch.equal(loaded, streamed)


@pytest.mark.parametrize("family", ["llama", "gemma3", "deberta-v2", "modernbert"])
def test_the_loaded_segment_equals_the_one_that_transformers_loads(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    source = resolve_model(tiny_model(family))
    ids, mask = inputs(source)
    ours = load_device_segment(source, CUT)
    monkeypatch.setattr(weights, "assemble", lambda *_, **__: None)
    theirs = load_device_segment(source, CUT)
    with torch.no_grad():
        assert torch.equal(ours(ids, mask), theirs(ids, mask))
    for (name, buffer), (_, other) in zip(
        ours.named_buffers(), theirs.named_buffers(), strict=True
    ):
        assert torch.equal(buffer, other), name


def test_a_streamed_segment_holds_no_weight_and_reads_only_its_own(
    tmp_path: Path, reads: list[tuple[str, int]]
) -> None:
    stock = load_stock(write_tiny_model("llama", tmp_path / "whole"), "causal_lm")
    stock.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    above = ("layers.2", "layers.3", "model.norm")
    needed = {
        file for name, file in index["weight_map"].items() if not any(a in name for a in above)
    }
    for file in set(index["weight_map"].values()) - needed:
        (tmp_path / "parts" / file).unlink()

    source = resolve_model(tmp_path / "parts")
    segment = load_device_segment(source, CUT, stream=True)
    assert reads == []
    held = [p for p in segment.parameters() if not isinstance(p, StoredParameter)]
    assert sum(p.numel() for p in held) <= 32  # the final norm, which nothing reads
    with torch.no_grad():
        segment(*inputs(source))
    assert {file for file, _ in reads} <= needed
    largest = max(p.numel() for p in segment.model.layers.parameters())
    assert max(count for _, count in reads) <= largest


def test_a_look_up_reads_only_the_rows_that_it_looks_up(
    tiny_model: Callable[[str], Path], reads: list[tuple[str, int]]
) -> None:
    segment = load_device_segment(resolve_model(tiny_model("gpt2")), CUT, stream=True)
    table = segment.model.wte
    rows = table(torch.tensor([[7, 8, 9, 7], [100, 8, 3, 3]]))
    assert [count for _, count in reads] == [32, 3 * 32, 32]  # 3, 7 to 9, 100
    assert torch.equal(rows[1, 0], table.weight[100])
    with pytest.raises(IndexError):
        table(torch.tensor([128]))


def test_callers_treat_a_streamed_segment_like_any_module(
    tiny_model: Callable[[str], Path],
) -> None:
    segment = load_device_segment(resolve_model(tiny_model("llama")), CUT, stream=True)
    linear = segment.model.layers[0].mlp.up_proj
    seen: list[Tensor] = []
    linear.register_forward_hook(lambda _module, args, _output: seen.append(args[0]))
    ids = torch.arange(10)[None]
    with torch.no_grad():
        segment(ids, torch.ones_like(ids))
        expected = seen[0] @ linear.weight.T
        torch.testing.assert_close(linear(seen[0]), expected)
        assert copy.deepcopy(linear).weight.abs().max() == linear.weight.abs().max()
    assert isinstance(linear.weight, nn.Parameter)
    assert (linear.weight.shape, linear.weight.device.type) == ((64, 32), "cpu")
    assert all(isinstance(value, Tensor) for value in segment.state_dict().values())
    assert "StoredTensor" in repr(linear.weight)


def test_tied_parameters_stay_one_parameter(tiny_model: Callable[[str], Path]) -> None:
    model = load_whole_model(resolve_model(tiny_model("llama")), "causal_lm", stream=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_proof_on_the_weights_holds_no_model(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three models of the proof are streamed."""
    kinds: set[type] = set()
    load = weights.load_weights

    def note(*args: Any, **options: Any) -> Any:
        model = load(*args, **options)
        kinds.update(type(p) for p in model.parameters() if p.numel() > 64)
        return model

    for module in ("device", "server", "whole"):
        monkeypatch.setattr(f"splitfrozen_export.split.{module}.load_weights", note)
    assert prove_cut(resolve_model(tiny_model("llama")), CUT, real=True).real_difference == 0.0
    assert kinds == {StoredParameter}


def test_a_checkpoint_that_must_be_converted_is_loaded_by_transformers(tmp_path: Path) -> None:
    """Mixtral is stored one tensor an expert, and computed with all experts in one."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model("mixtral", vocab_size=128, num_local_experts=4, **shape, **heads)
    stock = AutoModelForCausalLM.from_config(config).eval()
    stock.save_pretrained(tmp_path)
    assert any("experts.0" in name for name in load_file(tmp_path / "model.safetensors"))
    ids = torch.arange(10)[None]
    with torch.no_grad():
        expected = stock(input_ids=ids, output_hidden_states=True).hidden_states[2]
        segment = load_device_segment(resolve_model(tmp_path), 2, stream=True)
        assert torch.equal(segment(ids, torch.ones_like(ids)), expected)


def test_two_spellings_of_one_tensor_are_left_to_transformers(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """A base checkpoint inside a task checkpoint: which of them counts is not ours to say."""
    copied = shutil.copytree(tiny_model("gpt2"), tmp_path / "model")
    tensors = load_file(copied / "model.safetensors")
    tensors["wte.weight"] = tensors["transformer.wte.weight"].clone()
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    source = resolve_model(copied)
    ids, mask = inputs(source)
    with torch.no_grad():
        expected = load_device_segment(resolve_model(tiny_model("gpt2")), CUT)(ids, mask)
        assert torch.equal(load_device_segment(source, CUT, stream=True)(ids, mask), expected)


def test_a_single_file_goes_before_an_index_as_in_transformers(tmp_path: Path) -> None:
    model = write_tiny_model("gpt2", tmp_path / "gpt2")
    index = {"weight_map": {"transformer.wte.weight": "model-00001-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    source = resolve_model(model)
    load_device_segment(source, CUT, stream=True)(*inputs(source))


def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    model = write_tiny_model("gpt2", tmp_path / "gpt2")
    file = model / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["transformer.h.0.attn.c_proj.weight"]["shape"][0] -= 1
    text = json.dumps(header).encode().ljust(length)[:length]
    file.write_bytes(raw[:8] + text + raw[8 + length :])
    with pytest.raises(ModelError, match="copy it again"):
        source = resolve_model(model)
        load_device_segment(source, CUT, stream=True)(*inputs(source))


@pytest.mark.parametrize("stream", [False, True])
def test_a_missing_weight_is_refused_by_name(tmp_path: Path, stream: bool) -> None:
    model = write_tiny_model("llama", tmp_path / "llama")
    tensors = load_file(model / "model.safetensors")
    lacking = "model.layers.1.mlp.up_proj.weight"
    del tensors[lacking]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight") as refused:
        load_device_segment(resolve_model(model), CUT, stream=stream)
    assert refused.value.code == "model_not_supported"


@pytest.mark.parametrize("damage", ["cut short", "no header", "strange index"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    model = write_tiny_model("gpt2", tmp_path / "gpt2")
    file = model / "model.safetensors"
    if damage == "cut short":
        file.write_bytes(file.read_bytes()[:-200_000])
    elif damage == "no header":
        file.write_bytes(b"\xff" * 100)
    else:
        file.unlink()
        index = {"weight_map": {"transformer.wte.weight": "../elsewhere.safetensors"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"copy it again|outside its directory"):
        source = resolve_model(model)
        load_device_segment(source, CUT, stream=True)(*inputs(source))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_stored_values_are_converted_in_pieces_without_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr("splitfrozen_export.split.checkpoint._CHUNK", 64)
    model = write_tiny_model("gpt2", tmp_path / "gpt2")
    tensors = {k: v.to(dtype) for k, v in load_file(model / "model.safetensors").items()}
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    segment = load_device_segment(resolve_model(model), CUT, stream=True)
    weight = segment.model.h[1].mlp.c_fc.weight
    assert torch.equal(weight + 0, tensors["transformer.h.1.mlp.c_fc.weight"].float())
    rows = segment.model.wte(torch.tensor([5, 6, 90]))
    assert torch.equal(rows, tensors["transformer.wte.weight"].float()[[5, 6, 90]])


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    stock = load_stock(write_tiny_model("llama", tmp_path / "whole"), "causal_lm")
    stock.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    file = index["weight_map"]["model.layers.0.mlp.up_proj.weight"]
    (tmp_path / "parts" / file).unlink()
    with pytest.raises(ModelError, match=file) as refused:
        load_device_segment(resolve_model(tmp_path / "parts"), CUT)
    assert refused.value.code == "model_not_found"
