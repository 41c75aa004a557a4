"""Checkpoints: whole or not at all, the newest sound one wins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from splitfrozen_server.worker.checkpoint import Checkpoint, newest, save


def make(step: int) -> Checkpoint:
    return Checkpoint(
        step=step,
        adapter={"lora_A.weight": torch.full((2, 3), float(step))},
        adapter_config=b"{}",
        optimizer={"step/lora_A": torch.tensor(float(step))},
        state={"step": step},
    )


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    names = [save(tmp_path, make(step)) for step in (1, 2, 10)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names[1:]
    found = newest(tmp_path)
    assert found is not None
    assert (found.step, found.state) == (10, {"step": 10})
    assert torch.equal(found.adapter["lora_A.weight"], torch.full((2, 3), 10.0))


@pytest.mark.parametrize(
    "file", ["adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"]
)
def test_one_flipped_bit_brings_back_the_one_before(file: str, tmp_path: Path) -> None:
    save(tmp_path, make(1))
    path = tmp_path / save(tmp_path, make(2)) / file
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    found = newest(tmp_path)
    assert found is not None and found.step == 1
    save(tmp_path, make(2))  # made again, since what is there is rotten
    found = newest(tmp_path)
    assert found is not None and found.step == 2


def test_an_interrupted_write_is_not_seen_and_goes_away(tmp_path: Path) -> None:
    save(tmp_path, make(1))
    part = tmp_path / ".part-step-00000002-0000000000000000"
    part.mkdir()
    (part / "state.json").write_text("{")
    found = newest(tmp_path)
    assert found is not None and found.step == 1
    save(tmp_path, make(3))
    assert not part.exists()


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "nothing") is None
    (tmp_path / "step-00000001-0123456789abcdef").mkdir()
    assert newest(tmp_path) is None
