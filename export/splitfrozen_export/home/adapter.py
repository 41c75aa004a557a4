"""A trained LoRA adapter in PEFT's layout: what it is.

All of it is read from the configuration and the header of the tensors, so that an adapter of
another model is refused before any weight is read (`fitting`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from splitfrozen.errors import ModelError
from splitfrozen_export.split.tasks import Task

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
DESCRIPTION = "splitfrozen.json"  # beside adapters that a SplitFrozen server trained
_TASKS: dict[str, Task] = {"CAUSAL_LM": "causal_lm", "SEQ_CLS": "classification"}
_PREFIX = "base_model.model."
_WRAPPED = ".base_layer"  # what PEFT calls a layer inside its own: saved with a trained table


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on the disk, not yet loaded."""

    path: Path
    task: Task | None  # None: its configuration does not say
    base: str | None  # the model it was trained on, as its configuration names it
    shapes: Mapping[str, tuple[int, ...]]  # of its tensors, by name inside the whole model
    labels: tuple[str, ...]  # names, where its description gives them
    cut: int | None  # of the dataset it was trained from; None: not by a SplitFrozen server
    prefix_digest: str | None

    @property
    def trained_here(self) -> bool:
        """Whether a SplitFrozen server wrote it."""
        return self.cut is not None


def read_adapter(path: Path) -> Adapter:
    """Read what an adapter is.

    Raises ModelError `model_not_found` when a file is missing, `model_not_supported` when it is
    no LoRA adapter, is pickled, or is for a task that no whole model of ours does.
    """
    config = _read_json(path, CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise refused(path, f"is a {kind} adapter; only LoRA can be merged into the weights")
    task = config.get("task_type")
    if task is not None and task not in _TASKS:
        raise refused(path, f"is for the task {task}; it must be one of {', '.join(_TASKS)}")
    described = _read_json(path, DESCRIPTION) if (path / DESCRIPTION).is_file() else {}
    return Adapter(
        path,
        task=_TASKS.get(task or ""),
        base=config.get("base_model_name_or_path") or None,
        shapes=_read_shapes(path),
        labels=tuple(described.get("labels", ())),
        cut=described.get("cut"),
        prefix_digest=described.get("prefix_digest"),
    )


def split_lora(name: str) -> tuple[str, str | None]:
    """Path of the module and the part of LoRA that a tensor is; None for a plain parameter."""
    for mark in (".lora_", ".modules_to_save."):
        path, found, rest = name.partition(mark)
        if found == ".lora_":
            return path.replace(_WRAPPED, ""), f"lora_{rest}"
    return name.replace(_WRAPPED, ""), None


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    file = path / WEIGHTS
    if not file.is_file():
        if (path / "adapter_model.bin").is_file():
            raise refused(path, "has only pickled weights; save it with PEFT as safetensors")
        raise ModelError("model_not_found", f"the adapter {path} has no {WEIGHTS}", param="adapter")
    try:
        with safe_open(file, "pt") as tensors:
            return {
                name.removeprefix(_PREFIX): tuple(tensors.get_slice(name).get_shape())
                for name in tensors.keys()  # noqa: SIM118, not a mapping
            }
    except SafetensorError as error:
        raise refused(path, f"has a damaged {WEIGHTS}: {error}") from error


def _read_json(path: Path, name: str) -> dict[str, Any]:
    file = path / name
    if not file.is_file():
        raise ModelError(
            "model_not_found",
            f"{path} has no {name}; give the directory of a PEFT adapter",
            param="adapter",
        )
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise refused(path, f"has a damaged {name}: {error}") from error
    if not isinstance(content, dict):
        raise refused(path, f"has a {name} that is no JSON object")
    return content


def refused(path: Path, reason: str) -> ModelError:
    """An adapter that cannot be merged, into no model."""
    return ModelError("model_not_supported", f"the adapter {path} {reason}", param="adapter")
