"""What a task changes in a model: its configuration and the head that training creates."""

from __future__ import annotations

import copy
import re
from typing import Any, Literal

from transformers import PretrainedConfig

from splitfrozen.errors import ModelError
from splitfrozen_export.split.classes import is_decoder
from splitfrozen_export.split.probe import head_modules
from splitfrozen_export.split.twin import pad_id

Task = Literal["classification", "causal_lm"]


def check_task(config: PretrainedConfig, task: Task) -> None:
    """Raise ModelError `model_not_supported` when the family cannot do the task."""
    if task == "causal_lm" and not is_decoder(config):
        raise ModelError(
            "model_not_supported",
            f"{config.model_type} is an encoder: it classifies, but predicts no next token",
            param="task",
        )


def task_config(config: PretrainedConfig, task: Task, num_labels: int | None = None) -> Any:
    """A copy of the configuration for one task, without a key/value cache of its own."""
    changed = without_cache(config)
    if task == "classification" and num_labels is not None:
        changed.num_labels = num_labels
    changed.pad_token_id = pad_id(config)  # a decoder's head looks for it behind the last token
    return changed


def without_cache(config: PretrainedConfig) -> Any:
    """A copy of the configuration that does not build a key/value cache on its own."""
    changed = copy.deepcopy(config)
    changed.use_cache = False
    return changed


def trained_heads(config: PretrainedConfig, task: Task, *, code: str | None = None) -> list[str]:
    """Paths of the modules trained beside LoRA: a classification head, nothing otherwise."""
    return head_modules(config, code=code) if task == "classification" else []


def head_patterns(config: PretrainedConfig, task: Task, *, code: str | None = None) -> list[str]:
    """Regular expressions of the parameters that a checkpoint need not have for this task."""
    return [rf"^{re.escape(head)}\." for head in trained_heads(config, task, code=code)]
