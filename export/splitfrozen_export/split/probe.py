"""Questions of structure, answered by running a twin instead of by a table of families."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from splitfrozen_export.split.blocks import count_layers, find_blocks
from splitfrozen_export.split.classes import is_decoder, model_class
from splitfrozen_export.split.segment import DeviceSegment, keep_blocks
from splitfrozen_export.split.twin import build_twin, pad_id, sample_ids, twin_config


def count_block_outputs(config: Any, *, code: str | None = None) -> int:
    """Length of the tuple that a block of this family returns; 0 when it returns a bare tensor."""
    small = twin_config(config, 2, code=code)
    model = build_twin(small, "base", code=code)
    lengths: list[int] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        lengths.append(len(output) if isinstance(output, tuple) else 0)

    find_blocks(model, count_layers(small)).modules[0].register_forward_hook(note)
    with torch.no_grad():
        _hidden(model, small)
    return lengths[0]


def device_parameters(config: Any, cut: int, *, code: str | None = None) -> set[str]:
    """Names, in the base model, of the parameters that the activation at the cut depends on.

    A parameter that only the full-width model has counts as one of them.
    """
    small = twin_config(config, cut + 1, code=code)
    model = build_twin(small, "base", code=code)
    keep_blocks(model, layers=count_layers(small), cut=cut)
    segment = DeviceSegment(model, cut, decoder=is_decoder(small))
    ids = sample_ids(small, 2, 6)
    with _gradients():
        torch.autograd.backward(segment(ids, torch.ones_like(ids)).sum())
    dead = {name for name, _ in model.named_parameters()} - _reached(model)
    with torch.device("meta"):
        full = model_class(config, "base", code=code)(config)
        keep_blocks(full, layers=count_layers(config), cut=cut)
    return {name for name, _ in full.named_parameters()} - dead


def head_modules(config: Any, *, code: str | None = None) -> list[str]:
    """Paths, in the classification model, of the modules that only its logits depend on.

    That is the head proper and, in BERT and its kin, the pooler inside the base model; a final
    norm or projection shapes the last hidden state too, so it stays frozen.
    """
    small = twin_config(config, 2, code=code)
    small.pad_token_id = pad_id(small)
    model = build_twin(small, "classification", code=code)
    ids = sample_ids(small, 2, 6)
    inner = getattr(model, str(model.base_model_prefix))
    with _gradients():
        torch.autograd.backward(_hidden(inner, small).sum())
        body = _reached(model)
        model.zero_grad(set_to_none=True)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        torch.autograd.backward(logits.sum())
    return _covering_modules(model, _reached(model) - body)


@contextmanager
def _gradients() -> Iterator[None]:
    """Record gradients although a caller may have switched them off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _hidden(model: nn.Module, config: Any) -> Tensor:
    ids = sample_ids(config, 2, 6)
    output: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
    return output


def _reached(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def _covering_modules(model: nn.Module, names: set[str]) -> list[str]:
    """The outermost modules all of whose parameters are in `names`."""
    found: list[str] = []
    for path, module in model.named_modules():
        inside = {f"{path}.{name}" for name, _ in module.named_parameters()}
        if not path or not inside or not inside <= names:
            continue
        if not any(path.startswith(f"{outer}.") for outer in found):
            found.append(path)
    return found
