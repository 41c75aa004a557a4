"""A trained LoRA adapter in PEFT's layout: what it is, and whether it fits a model.

All of it is read from the configuration and the header of the tensors, so that an adapter of
another model is refused before any weight is read.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.pytorch_utils import Conv1D

from splitfrozen.errors import ModelError
from splitfrozen_export.split import ModelSource, prefix_digest
from splitfrozen_export.split.probe import device_parameters
from splitfrozen_export.split.stored import StoredParameter
from splitfrozen_export.split.tasks import Task

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
DESCRIPTION = "splitfrozen.json"  # beside adapters that a SplitFrozen server trained
_TASKS: dict[str, Task] = {"CAUSAL_LM": "causal_lm", "SEQ_CLS": "classification"}
_PREFIX = "base_model.model."
_WRAPPED = ".base_layer"  # what PEFT calls a layer inside its own: saved with a trained table
_TOKENS = ".trainable_tokens_"
_LORA = "which is not merged here; only LoRA and modules trained whole are"
_BLOCK = re.compile(r"\.(\d+)\.")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


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
        raise _refused(path, f"is a {kind} adapter; only LoRA can be merged into the weights")
    task = config.get("task_type")
    if task is not None and task not in _TASKS:
        raise _refused(path, f"is for the task {task}; it must be one of {', '.join(_TASKS)}")
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


def check_base(adapter: Adapter, source: ModelSource) -> None:
    """Raise ModelError `base_model_mismatch` when the adapter names another base model.

    An adapter of a SplitFrozen server carries the digest of the weights below its cut, which
    decides. Else names decide, where both are names of the Hub; a directory may be called anything.
    """
    if adapter.cut is not None and adapter.prefix_digest is not None:
        if prefix_digest(source, adapter.cut) != adapter.prefix_digest:
            raise _mismatch(adapter, source, "the weights of its lower blocks differ")
        return
    named = (adapter.base or "", source.id)
    if all(_HUB_ID.fullmatch(name) and not Path(name).is_dir() for name in named):
        ours, theirs = (name.rpartition("/")[2].lower() for name in named)
        if ours != theirs:
            raise _mismatch(adapter, source, f"it was trained on {adapter.base!r}")


def check_shapes(adapter: Adapter, source: ModelSource, model: nn.Module) -> None:
    """Raise ModelError `base_model_mismatch` unless every tensor has its place in `model`.

    `model` is the whole task model, and may be without values. An adapter of single tokens is
    refused with `model_not_supported`.
    """
    modules = dict(model.named_modules())
    named = model.named_parameters(remove_duplicate=False)  # a tied head has its name too
    parameters = {name: tuple(value.shape) for name, value in named}
    for name, shape in adapter.shapes.items():
        if _TOKENS in name:
            raise _refused(adapter.path, "trains single tokens (trainable_token_indices), " + _LORA)
        path, part = _split_lora(name)
        if part is None:  # a module that was trained whole
            if path not in parameters:
                raise _mismatch(adapter, source, f"it has {path}, which this model lacks")
            if parameters[path] != shape:
                raise _misfit(adapter, source, path, shape, parameters[path])
            continue
        module = modules.get(path)
        if module is None:
            raise _mismatch(adapter, source, f"it changes {path}, which this model lacks")
        ends = _ends(module)
        side = {"lora_A.weight": 1, "lora_B.weight": 0}.get(part)
        if ends is None or side is None:
            continue  # PEFT's own check follows when it loads
        wanted = (shape[0], ends[0]) if side == 1 else (ends[1], shape[1])
        if shape != wanted:
            raise _misfit(adapter, source, name, shape, wanted)


def check_tied(adapter: Adapter, model: nn.Module) -> None:
    """Raise ModelError `model_not_supported` when the adapter changes one use of a shared tensor.

    PEFT trains the table or the head alone, but merged into the tensor that both read, the
    change would reach the other too. `model` is as in `check_shapes`.
    """
    uses: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        uses.setdefault(id(parameter), []).append(name)
    for names in uses.values():
        changed = [name for name in names if _changes(adapter, name)]
        if len(names) > 1 and changed:
            others = ", ".join(name for name in names if name != changed[0])
            raise _refused(
                adapter.path,
                f"changes {changed[0]}, which this model shares with {others} (tied embeddings): "
                "merged, the change would reach both; train it without that module, or untie the "
                "model first",
            )


def check_upper(adapter: Adapter, source: ModelSource, model: nn.Module, cut: int) -> None:
    """Raise ModelError `base_model_mismatch` when the adapter changes what the device runs.

    That is a block below the cut, or another parameter that the activations there depend on, as
    the embeddings. `model` is as in `check_shapes`.
    """
    run = device_parameters(source.config, cut, code=source.code)
    changed = sorted(
        n for n in (f"{model.base_model_prefix}.{n}" for n in run) if _changes(adapter, n)
    )
    if not changed:
        return
    blocks = [int(match.group(1)) for match in map(_BLOCK.search, changed) if match is not None]
    if len(blocks) < len(changed):
        first = next(name for name in changed if _BLOCK.search(name) is None)
        what, lower = f"{first}, which the device reads", 0
    else:
        lower = min(blocks)
        what = f"block {lower}, which lies below --cut {cut} and runs on the device"
    raise ModelError(
        "base_model_mismatch",
        f"the adapter {adapter.path} changes {what} as it is; "
        + (f"give --cut {lower} or less, or " if lower else "give ")
        + "--whole",
        param="adapter",
    )


def _changes(adapter: Adapter, parameter: str) -> bool:
    """Whether a tensor of the adapter is for the module of `parameter`, or is the parameter."""
    paths = {_split_lora(name)[0] for name in adapter.shapes}
    return parameter in paths or parameter.rpartition(".")[0] in paths


def merge_adapter(model: Any, adapter: Adapter) -> Any:
    """`model` with the adapter merged into its weights, by PEFT's own `merge_and_unload`.

    `model` is the whole task model or the server segment's; its modules are changed in place, and
    of a streamed model those that the adapter changes come into memory. Raises ModelError
    `model_not_supported` with PEFT's own words when it cannot load it.
    """
    from peft import PeftModel  # seconds to import, and only adapters need it

    for path in {_split_lora(name)[0] for name in adapter.shapes}:
        _bring_in(model, path)
    tied = model.config.tie_word_embeddings
    try:
        with warnings.catch_warnings():
            # a table that stays in its file has no address by which PEFT sees that it is tied
            warnings.filterwarnings("ignore", message="Input and output embeddings are no longer")
            merged = PeftModel.from_pretrained(model, adapter.path).merge_and_unload()
    except (ValueError, RuntimeError, KeyError) as error:
        raise _refused(adapter.path, f"cannot be loaded: {error}") from error
    merged.config.tie_word_embeddings = tied
    return merged.eval().requires_grad_(False)


def _bring_in(model: nn.Module, path: str) -> None:
    """Read the stored parameters of the module at `path`, or of the one that holds it.

    What shares them (a tied head) shares the values that come into memory, and thus a change.
    """
    modules = dict(model.named_modules())
    wanted = modules.get(path) or modules[path.rpartition(".")[0]]
    for parameter in list(wanted._parameters.values()):
        if isinstance(parameter, StoredParameter):
            read = nn.Parameter(parameter.stored.read(), requires_grad=False)
            for module in modules.values():
                for name, other in module._parameters.items():
                    if other is parameter:
                        module._parameters[name] = read


def _split_lora(name: str) -> tuple[str, str | None]:
    """Path of the module and the part of LoRA that a tensor is; None for a plain parameter."""
    for mark in (".lora_", ".modules_to_save."):
        path, found, rest = name.partition(mark)
        if found == ".lora_":
            return path.replace(_WRAPPED, ""), f"lora_{rest}"
    return name.replace(_WRAPPED, ""), None


def _ends(module: nn.Module) -> tuple[int, int] | None:
    """Width of what a linear layer takes and gives."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    return None


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    file = path / WEIGHTS
    if not file.is_file():
        if (path / "adapter_model.bin").is_file():
            raise _refused(path, "has only pickled weights; save it with PEFT as safetensors")
        raise ModelError("model_not_found", f"the adapter {path} has no {WEIGHTS}", param="adapter")
    try:
        with safe_open(file, "pt") as tensors:
            return {
                name.removeprefix(_PREFIX): tuple(tensors.get_slice(name).get_shape())
                for name in tensors.keys()  # noqa: SIM118, not a mapping
            }
    except SafetensorError as error:
        raise _refused(path, f"has a damaged {WEIGHTS}: {error}") from error


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
        raise _refused(path, f"has a damaged {name}: {error}") from error
    if not isinstance(content, dict):
        raise _refused(path, f"has a {name} that is no JSON object")
    return content


def _refused(path: Path, reason: str) -> ModelError:
    return ModelError("model_not_supported", f"the adapter {path} {reason}", param="adapter")


def _mismatch(adapter: Adapter, source: ModelSource, reason: str) -> ModelError:
    return ModelError(
        "base_model_mismatch",
        f"the adapter {adapter.path} does not belong to {source.id!r}: {reason}; "
        f"give the --model that it was trained on",
        param="adapter",
    )


def _misfit(
    adapter: Adapter,
    source: ModelSource,
    name: str,
    shape: tuple[int, ...],
    wanted: tuple[int, ...],
) -> ModelError:
    return _mismatch(
        adapter, source, f"{name} has the shape {list(shape)}, and here it would be {list(wanted)}"
    )
