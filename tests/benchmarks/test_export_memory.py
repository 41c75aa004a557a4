"""The memory benchmark: its models are real ones with holes, and it notices a read too many."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import export_memory, sparse_model
from splitfrozen_export.split import load_device_segment, resolve_model

TINY: dict[str, Any] = {
    **sparse_model.SHAPES["llama-3.1-8b"],
    "vocab_size": 4096,
    "bos_token_id": 4000,
    "eos_token_id": 4001,
    "hidden_size": 256,
    "num_hidden_layers": 8,
    "intermediate_size": 1024,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
CUT = 2


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sparse_model, "SHAPES", {"tiny": TINY})
    monkeypatch.setattr(sparse_model, "SHARD_BYTES", 5_000_000)
    sparse_model.write_sparse_model("tiny", CUT, tmp_path / "model")
    return tmp_path / "model"


def test_only_the_device_segment_takes_room_on_the_disk(model: Path) -> None:
    places = sparse_model.read_places(model, CUT)
    held = sum(place.size for place in places if place.segment)
    blocks = sum(path.stat().st_blocks * 512 for path in model.glob("*.safetensors"))
    assert held <= blocks < held + 200_000
    assert sum(place.size for place in places) > 2 * held
    index = json.loads((model / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {place.name: place.file for place in places}
    assert len(set(index["weight_map"].values())) > 2


def test_the_segment_below_the_holes_computes(model: Path) -> None:
    segment = load_device_segment(resolve_model(model), CUT, stream=True)
    ids = torch.tensor([[4000, 5, 6, 7]])
    with torch.no_grad():
        assert float(segment(ids, torch.ones_like(ids)).abs().max()) > 0


def test_what_is_read_outside_the_segment_is_noticed(model: Path) -> None:
    places = sparse_model.read_places(model, CUT)
    export_memory.forget_files(model, places)
    assert export_memory.read_bytes(model, places) == (0, 0)
    hole = max((place for place in places if not place.segment), key=lambda place: place.size)
    with (model / hole.file).open("rb", buffering=0) as file:
        file.seek(hole.start + 8192)
        file.read(8192)
    read, outside = export_memory.read_bytes(model, places)
    assert 8192 <= outside <= read


@pytest.mark.long
def test_an_export_of_a_real_shape_takes_little_more_than_its_segment(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.export_memory", "--shape", "llama-3.2-1b", "--cut", "4"],
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["peak_over_segment_mb"] <= 400
    assert result["read_outside_segment_mb"] < 32  # what the kernel reads ahead
    assert result["read_mb"] < 1.05 * result["segment_fp32_mb"] / 2 + 32
