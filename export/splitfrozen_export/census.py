"""Count the matrix products of a device segment in torch, to hold the exported graph against.

A graph in which the int8 pass did not find a product would still be right, only slow and large.
So the number that it replaced is compared with the number that torch really runs.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from splitfrozen_export.graph import PlainLinear
from splitfrozen_export.split import DeviceSegment
from splitfrozen_export.split.blocks import find_blocks

_LINEAR = (nn.Linear, Conv1D, PlainLinear)
_TOKENS = 5


def count_products(segment: DeviceSegment) -> int:
    """Number of linear layers that one call runs on token-dependent values before the cut."""
    first, second = (_linear_inputs(segment, start) for start in (1, 2))
    return sum(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _linear_inputs(segment: DeviceSegment, start: int) -> list[Tensor]:
    """What each linear layer received, in order, until the last block of the segment ended."""
    seen: list[Tensor] = []
    ended: list[bool] = []

    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not ended:
            seen.append(inputs[0].detach().clone())

    def end(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        ended.append(True)

    ids = torch.arange(start, start + _TOKENS)[None]
    with ExitStack() as hooks, torch.no_grad():
        for module in segment.modules():
            if isinstance(module, _LINEAR):
                hooks.enter_context(module.register_forward_pre_hook(record))
        last = find_blocks(segment.model, segment.cut).modules[-1]
        hooks.enter_context(last.register_forward_hook(end))
        segment(ids, torch.ones_like(ids))
    return seen
