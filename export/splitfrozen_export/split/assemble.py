"""Build a model without memory for its weights and put in the ones that a segment reads.

Transformers' own loading maps whole files and may convert what it reads. Where the checkpoint
holds every parameter under its own name and in its own form, none of that is needed.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from splitfrozen_export.split.checkpoint import Checkpoint, StoredTensor
from splitfrozen_export.split.embedding import HAS_VALUES
from splitfrozen_export.split.names import match_names
from splitfrozen_export.split.source import ModelSource
from splitfrozen_export.split.stored import StoredParameter

Surgery = Callable[[nn.Module], None]
_T = TypeVar("_T", bound=Tensor)


@dataclass(frozen=True)
class Wanted:
    """Which parameters of a model come from the checkpoint. Regular expressions of their names."""

    may_lack: Sequence[str] = ()  # need not be in the checkpoint: a head that training creates
    unread: Sequence[str] = ()  # nothing depends on them, so they are not looked for


def assemble(
    cls: type[Any],
    source: ModelSource,
    config: PretrainedConfig,
    *,
    surgery: Surgery | None,
    wanted: Wanted,
    stream: bool,
    seed: int,
) -> Any:
    """A `cls` of `config` with the weights of `source` in fp32, or None.

    None means that the checkpoint is not the plain picture of the model: a parameter is missing,
    is there twice or has another shape, or Transformers would convert it. The memory taken is the
    model's own and 4 MiB; with `stream` nothing is read and parameters stay in their files.
    """
    model = _empty_model(cls, config, surgery)
    checkpoint = Checkpoint(source)
    names = _plain_names(model, checkpoint.names, wanted)
    if names is None:
        return None
    stored = checkpoint.find(list(names.values()))
    places = {name: stored[tensor] for name, tensor in names.items()}
    misfits = [name for name, place in places.items() if _shape(model, name) != place.shape]
    if any(not _matches(name, wanted.may_lack) for name in misfits):
        return None
    for name in misfits:
        del places[name]
    _fill(model, places, stream=stream)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.initialize_weights()  # only what is not marked: what we lack, and computed buffers
    return model


def _empty_model(cls: type[Any], config: PretrainedConfig, surgery: Surgery | None) -> Any:
    config = copy.deepcopy(config)
    config.dtype = torch.float32
    with torch.device("meta"):
        model = cls(config)
        if surgery is not None:
            surgery(model)
    return model


def _plain_names(model: Any, stored: Sequence[str], wanted: Wanted) -> dict[str, str] | None:
    """Parameter or saved buffer -> stored tensor; None when it is not one to one."""
    state = model.state_dict()
    matches = match_names(model, stored)
    names: dict[str, str] = {}
    for aliases in _shared_names(model, state):
        if all(_matches(name, wanted.unread) for name in aliases):
            continue
        found = [tensor for name in aliases for tensor in matches.get(name, ())]
        if len(found) == 1:
            names[aliases[0]] = found[0]
        elif found or not any(_matches(name, wanted.may_lack) for name in aliases):
            return None
    return names


def _shared_names(model: nn.Module, state: Mapping[str, Tensor]) -> list[list[str]]:
    """All names of each parameter and saved buffer; tied parameters have several."""
    shared: dict[int, list[str]] = {}
    tensors = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in tensors:
        if name in state:
            shared.setdefault(id(tensor), []).append(name)
    return list(shared.values())


def _fill(model: nn.Module, places: Mapping[str, StoredTensor], *, stream: bool) -> None:
    """Put a real tensor, or one that stays in its file, in the place of every empty one."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    stored = {id(named[name]): place for name, place in places.items()}
    made: dict[int, Tensor] = {}  # tied parameters stay tied
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = _parameter(parameter, stored.get(id(parameter)), stream)
                module._parameters[name] = made[id(parameter)]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                if id(buffer) not in made:
                    made[id(buffer)] = _buffer(buffer, stored.get(id(buffer)))
                module._buffers[name] = made[id(buffer)]


def _parameter(empty: nn.Parameter, stored: StoredTensor | None, stream: bool) -> nn.Parameter:
    if stored is None:
        return nn.Parameter(torch.zeros_like(empty, device="cpu"), empty.requires_grad)
    if stream:
        return StoredParameter(stored)
    return _marked(nn.Parameter(stored.read(empty.dtype), empty.requires_grad))


def _buffer(empty: Tensor, stored: StoredTensor | None) -> Tensor:
    if stored is None:
        return torch.zeros_like(empty, device="cpu")
    return _marked(stored.read(empty.dtype))


def _marked(tensor: _T) -> _T:
    """Tell Transformers that the tensor has its values already."""
    setattr(tensor, HAS_VALUES, True)
    return tensor


def _shape(model: Any, name: str) -> tuple[int, ...]:
    return tuple(model.get_parameter_or_buffer(name).shape)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)
