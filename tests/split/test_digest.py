"""The prefix digest names the frozen part, needs only it, and depends on nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from splitfrozen_export.split import load_device_segment, prefix_digest, resolve_model
from tests.split.inputs import load_stock
from tests.tiny_models import FAMILIES, write_tiny_model

CUT = 2


def rewritten(model: Path, output: Path, tensors: dict[str, Tensor]) -> Path:
    """`model` with other weights."""
    output.mkdir()
    (output / "config.json").write_text((model / "config.json").read_text())
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    return output


def digest(directory: Path, cut: int = CUT) -> str:
    return prefix_digest(resolve_model(directory), cut)


@pytest.mark.parametrize("family", FAMILIES)
def test_base_and_task_checkpoints_have_the_same_digest(
    tiny_model: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    model = load_stock(tiny_model(family), "classification")
    model.save_pretrained(tmp_path / "task")
    getattr(model, model.base_model_prefix).save_pretrained(tmp_path / "base")
    assert digest(tmp_path / "task") == digest(tmp_path / "base") == digest(tiny_model(family))


def test_the_digest_is_the_one_of_the_specification(tmp_path: Path) -> None:
    """Written out by hand: sorted lines of name, dtype, shape and hash of the bytes."""
    model = write_tiny_model("gpt2", tmp_path / "gpt2")
    tensors = load_file(model / "model.safetensors")
    lines = []
    for name in sorted(tensors):
        short = name.removeprefix("transformer.")
        if short.startswith(("wte.", "wpe.", "h.0.", "h.1.")):
            shape = ",".join(str(size) for size in tensors[name].shape)
            body = hashlib.sha256(tensors[name].numpy().tobytes()).hexdigest()
            lines.append(f"{short}\0F32\0{shape}\0{body}\n")
    assert digest(model) == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def test_one_changed_value_below_the_cut_changes_the_digest(tmp_path: Path) -> None:
    model = write_tiny_model("llama", tmp_path / "llama")
    tensors = load_file(model / "model.safetensors")
    seen = {digest(model)}
    below = [name for name in tensors if "layers.2" not in name and "layers.3" not in name]
    for index, name in enumerate(sorted(set(below) - {"model.norm.weight"})):
        changed = {**tensors, name: tensors[name] + 0}
        changed[name].view(-1)[-1] += 1
        seen.add(digest(rewritten(model, tmp_path / str(index), changed)))
    assert len(seen) == len(below)


def test_values_above_the_cut_do_not_matter(tmp_path: Path) -> None:
    model = write_tiny_model("bert", tmp_path / "bert")
    tensors = load_file(model / "model.safetensors")
    above = [name for name in tensors if "layer.2" in name or "layer.3" in name or "pooler" in name]
    assert above
    other = {name: tensor + 1 if name in above else tensor for name, tensor in tensors.items()}
    changed = rewritten(model, tmp_path / "other", other)
    assert digest(changed) == digest(model)
    assert digest(changed, 3) != digest(model, 3)


def test_the_source_dtype_is_part_of_the_digest(tmp_path: Path) -> None:
    model = write_tiny_model("llama", tmp_path / "llama")
    tensors = load_file(model / "model.safetensors")
    half = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    assert digest(rewritten(model, tmp_path / "half", half)) != digest(model)


@pytest.mark.parametrize("shard_size", ["20KB", "40KB"])
def test_only_the_shards_of_the_device_segment_are_needed(tmp_path: Path, shard_size: str) -> None:
    model = write_tiny_model("llama", tmp_path / "whole")
    load_stock(model, "causal_lm").save_pretrained(tmp_path / "parts", max_shard_size=shard_size)
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    above = ("layers.2", "layers.3", "model.norm")
    needed = {
        file for name, file in index["weight_map"].items() if not any(a in name for a in above)
    }
    others = set(index["weight_map"].values()) - needed
    assert others
    for file in others:
        (tmp_path / "parts" / file).unlink()
    assert digest(tmp_path / "parts") == digest(model)


def test_legacy_names_mean_the_same_tensors(tmp_path: Path) -> None:
    model = write_tiny_model("bert", tmp_path / "bert")
    legacy = {}
    for name, tensor in load_file(model / "model.safetensors").items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        legacy[f"bert.{old.replace('LayerNorm.bias', 'LayerNorm.beta')}"] = tensor
    renamed = rewritten(model, tmp_path / "legacy", legacy)
    assert digest(renamed) == digest(model)
    old, new = (load_device_segment(resolve_model(path), CUT) for path in (renamed, model))
    for name, tensor in new.state_dict().items():
        if "pooler" not in name:  # dead on the device, so it need not be in the checkpoint
            assert torch.equal(old.state_dict()[name], tensor), name
