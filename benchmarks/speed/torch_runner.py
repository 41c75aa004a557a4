"""PyTorch on the same device segment: eager, compiled, and with 8-bit linear layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from benchmarks.speed.worker import Ids, Runner, Task
from splitfrozen_export.split import load_device_segment, resolve_model


def load(task: Task) -> Runner:
    """Load the segment and make of it what the contender's name says."""
    torch.set_num_threads(task.threads)
    segment = load_device_segment(resolve_model(str(task.model)), task.cut).eval()
    prepared = _PREPARE[task.name](segment)

    @torch.inference_mode()
    def run(ids: Ids, mask: Ids) -> NDArray[np.float32]:
        found: NDArray[np.float32] = prepared(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        return found

    return Runner(run, _stored_bytes(segment))


def plain_linears(module: nn.Module) -> None:
    """Put nn.Linear in the place of GPT-2's Conv1D: what every quantizer looks for."""
    for name, conv in [(n, m) for n, m in module.named_modules() if isinstance(m, Conv1D)]:
        linear = nn.Linear(*conv.weight.shape)
        linear.weight = nn.Parameter(conv.weight.detach().T.contiguous(), requires_grad=False)
        linear.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, linear)


def _dynamic_int8(segment: nn.Module) -> nn.Module:
    from torch.ao.quantization import quantize_dynamic

    plain_linears(segment)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        quantize: Callable[..., object] = quantize_dynamic  # it has no types
        quantize(segment, {nn.Linear}, dtype=torch.qint8, inplace=True)
    return segment


def _torchao_int8(segment: nn.Module) -> Any:
    from torchao.quantization import (  # type: ignore[import-not-found]
        Int8DynamicActivationInt8WeightConfig,
        quantize_,
    )

    plain_linears(segment)
    quantize_(segment, Int8DynamicActivationInt8WeightConfig())
    return torch.compile(segment)


def _stored_bytes(segment: nn.Module) -> int:
    """What the state would take in a file; packed parameters of torch.ao are counted too."""
    tensors: list[torch.Tensor] = []
    for value in segment.state_dict().values():
        tensors += [item for item in _parts(value) if isinstance(item, torch.Tensor)]
    return sum(tensor.element_size() * tensor.numel() for tensor in tensors)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [part for item in value for part in _parts(item)]
    names = getattr(type(value), "tensor_data_names", None)
    return [getattr(value, name) for name in names] if names else [value]


_PREPARE: dict[str, Callable[[nn.Module], Any]] = {
    "torch-eager": lambda segment: segment,
    "torch-compile": torch.compile,
    "torch-dynamic-int8": _dynamic_int8,
    "torchao-int8": _torchao_int8,
}
