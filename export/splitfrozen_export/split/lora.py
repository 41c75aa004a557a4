"""The LoRA that fits a server segment and, unchanged, the whole untouched model.

PEFT is imported by the functions: it takes seconds, and an export or an inspection of a model
needs none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from splitfrozen.errors import ModelError
from splitfrozen_export.split.server import ServerSegment

if TYPE_CHECKING:
    from peft import LoraConfig

_TASK_TYPES = {"classification": "SEQ_CLS", "causal_lm": "CAUSAL_LM"}  # PEFT's names
_ADDED_BY_PEFT = ("classifier", "score")  # to modules_to_save of every SEQ_CLS adapter


def lora_config(
    segment: ServerSegment,
    *,
    r: int,
    alpha: int,
    dropout: float,
    target_modules: Sequence[str] | None = None,
) -> LoraConfig:
    """LoRA on the server's blocks, the classification head trained beside it.

    `target_modules` are suffixes of layer names inside a block; None means every linear layer.
    Naming the layer indices makes the adapter load into the whole model without touching the
    device's blocks. Raises ModelError `invalid_request` for a suffix that matches no layer.
    """
    from peft import LoraConfig, TaskType

    extra = [name for name in segment.head_modules if name not in _ADDED_BY_PEFT]
    return LoraConfig(
        task_type=TaskType[_TASK_TYPES[segment.task]],
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_check_targets(segment, target_modules),
        layers_to_transform=segment.lora_layers,
        modules_to_save=extra or None,
        fan_in_fan_out=segment.fan_in_fan_out,
        revision=segment.revision,
    )


def enable_lora_dropout(model: nn.Module, *, enabled: bool) -> None:
    """Switch the dropout of the LoRA layers only.

    The base model stays in evaluation mode throughout: its activations at the cut are constants,
    so everything frozen above them behaves as a constant too.
    """
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train(enabled)


def _check_targets(segment: ServerSegment, wanted: Sequence[str] | None) -> list[str]:
    known = segment.target_modules
    for suffix in wanted or ():
        if not any(f".{path}".endswith(f".{suffix}") for path in known):
            raise ModelError(
                "invalid_request",
                f"no linear layer of a block is called {suffix!r}; choose among {', '.join(known)}",
                param="target_modules",
            )
    return list(wanted or known)
