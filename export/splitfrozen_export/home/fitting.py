"""Does an adapter fit a model? Names, shapes and digests only: no weight of either is read."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn
from transformers.pytorch_utils import Conv1D

from splitfrozen.errors import ModelError
from splitfrozen_export.home.adapter import Adapter, refused, split_lora
from splitfrozen_export.split import ModelSource, prefix_digest
from splitfrozen_export.split.probe import device_parameters

_TOKENS = ".trainable_tokens_"
_LORA = "which is not merged here; only LoRA and modules trained whole are"
_BLOCK = re.compile(r"\.(\d+)\.")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


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
            raise refused(adapter.path, "trains single tokens (trainable_token_indices), " + _LORA)
        path, part = split_lora(name)
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
            raise refused(
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
    paths = {split_lora(name)[0] for name in adapter.shapes}
    return parameter in paths or parameter.rpartition(".")[0] in paths


def _ends(module: nn.Module) -> tuple[int, int] | None:
    """Width of what a linear layer takes and gives."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    return None


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
