"""Read a packed adapter back: what training packed, and what serving needs of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load as load_tensors
from torch import Tensor

from splitfrozen_server.worker import adapter as adapter_files
from splitfrozen_server.worker.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from splitfrozen_server.worker.job import Task
from splitfrozen_server.worker.settings import LoraSettings


@dataclass(frozen=True)
class PackedAdapter:
    """An adapter's weights on the CPU, and where they belong."""

    cut: int
    task: Task
    labels: list[str]  # empty for causal_lm
    lora: LoraSettings  # without dropout
    tensors: dict[str, Tensor]  # PEFT's names


def read_adapter(path: Path) -> PackedAdapter:
    """Read the file that a job handed over."""
    files = adapter_files.unpack(path.read_bytes())
    description = json.loads(files[adapter_files.DESCRIPTION])
    config = json.loads(files[ADAPTER_CONFIG])
    return PackedAdapter(
        cut=description["cut"],
        task=description["task"],
        labels=description["labels"],
        lora=LoraSettings(
            r=config["r"],
            alpha=config["lora_alpha"],
            dropout=0.0,
            target_modules=tuple(config["target_modules"]),
        ),
        tensors=load_tensors(files[ADAPTER_WEIGHTS]),
    )
