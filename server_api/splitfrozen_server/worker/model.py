"""Base model -> server segment with LoRA attached, and its weights as PEFT names them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from splitfrozen.errors import ModelError
from splitfrozen_export.split import (
    ModelSource,
    ServerSegment,
    enable_lora_dropout,
    load_server_segment,
    lora_config,
    prefix_digest,
    resolve_model,
)
from splitfrozen_server.worker.job import BaseModel, LeasedJob, Task
from splitfrozen_server.worker.settings import LoraSettings


@dataclass(frozen=True)
class AdaptedModel:
    """A server segment and the PeftModel around its model."""

    source: ModelSource
    segment: ServerSegment
    model: PeftModel


def find_source(base: BaseModel) -> ModelSource:
    """The base model's files on this machine. ModelError when they are gone."""
    return resolve_model(base.path, trust_remote_code=base.trust_remote_code)


def check_prefix(source: ModelSource, job: LeasedJob) -> str:
    """The prefix digest of the weights on disk.

    ModelError `base_model_mismatch` when the job's activations were made with other ones: blocks
    above the cut would continue blocks that no longer exist.
    """
    found = prefix_digest(source, job.cut)
    if other := [digest for digest in job.prefix_digests if digest != found]:
        raise ModelError(
            "base_model_mismatch",
            f"the weights in {source.path} were changed: below the cut they hash to {found}, those "
            f"of the bundle that made the activations to {other[0]}; put the old weights back, or "
            "register the new ones under another name and collect anew",
        )
    return found


def public_name(base: BaseModel) -> str:
    """What a model card calls the base model: its Hub id, or the name it is registered under."""
    return base.name if Path(base.source).expanduser().is_dir() else base.source


def build(
    source: ModelSource,
    cut: int,
    task: Task,
    *,
    num_labels: int | None,
    lora: LoraSettings,
    seed: int,
) -> AdaptedModel:
    """Load blocks cut.. and the head, and attach a fresh adapter: the same seed, the same bits."""
    segment = load_server_segment(source, cut, task, num_labels=num_labels, seed=seed)
    targets = None if lora.target_modules is None else list(lora.target_modules)
    config = lora_config(
        segment, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, target_modules=targets
    )
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            # PEFT asks for a name that Transformers will drop: nothing an operator could act on.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            model = get_peft_model(segment.model, config)
    except ValueError as error:  # PEFT names the target modules that it did not find
        raise ModelError("invalid_request", str(error), param="target_modules") from error
    model.to(compute_device())
    # Only LoRA's own dropout acts: the base is frozen, so its outputs are constants too.
    model.eval()
    enable_lora_dropout(model, enabled=True)
    return AdaptedModel(source, segment, model)


def compute_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def adapter_tensors(model: PeftModel) -> dict[str, Tensor]:
    """The trained weights under PEFT's names, on the CPU."""
    # "auto" would ask the Hub whether the vocabulary was resized.
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}


def restore_adapter(
    model: PeftModel, tensors: Mapping[str, Tensor], *, adapter: str = "default"
) -> None:
    """Put back what `adapter_tensors` gave. ModelError when names or shapes do not fit."""
    result: Any = set_peft_model_state_dict(model, dict(tensors), adapter_name=adapter)
    missing = [name for name in result.missing_keys if f".{adapter}." in f"{name}."]
    if missing or result.unexpected_keys:
        wrong = [*missing, *result.unexpected_keys][0]
        raise ModelError("model_not_supported", f"the adapter does not fit the model: {wrong}")


def adapter_config_bytes(model: PeftModel, base: BaseModel) -> bytes:
    """adapter_config.json for the whole base model, in one canonical form."""
    fields: dict[str, Any] = model.peft_config["default"].to_dict()
    fields["base_model_name_or_path"] = public_name(base)
    fields["revision"] = base.revision
    fields["inference_mode"] = True
    fields["auto_mapping"] = None  # would name the segment's class; task_type says enough
    return (json.dumps(fields, indent=2, sort_keys=True, default=_plain) + "\n").encode()


def _plain(value: object) -> object:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(getattr(value, "value", value))  # enums
