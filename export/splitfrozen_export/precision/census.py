"""Count the matrix products of a device segment in torch, to hold the exported graph against.

A graph in which the int8 pass did not find a product would still be right, only slow and large.
So the number that it replaced is compared with the number that torch really runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from splitfrozen_export.graph.trace import PlainLinear
from splitfrozen_export.split import DeviceSegment
from splitfrozen_export.split.blocks import find_blocks

LINEAR = (nn.Linear, Conv1D, PlainLinear)
_TOKENS = 5

Call = Callable[[Tensor], object]


def count_products(
    module: nn.Module, call: Call | None = None, last: nn.Module | None = None
) -> int:
    """Number of linear layers that one call runs on token-dependent values.

    `call` runs `module` on token ids, int64 [1, tokens]; what runs after `last` does not count.
    Both may be left out for a DeviceSegment: its forward, and the last block before the cut.
    """
    if isinstance(module, DeviceSegment):
        last = last or find_blocks(module.model, module.cut).modules[-1]
    run = call or (lambda ids: module(ids, torch.ones_like(ids)))
    first, second = (_linear_inputs(module, run, last, start) for start in (1, 2))
    return sum(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _linear_inputs(
    module: nn.Module, run: Call, last: nn.Module | None, start: int
) -> list[Tensor]:
    """What each linear layer received, in order, until `last` ended."""
    seen: list[Tensor] = []
    ended: list[bool] = []

    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not ended:
            seen.append(inputs[0].detach().clone())

    def end(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        ended.append(True)

    with ExitStack() as hooks, torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, LINEAR):
                hooks.enter_context(layer.register_forward_pre_hook(record))
        if last is not None:
            hooks.enter_context(last.register_forward_hook(end))
        run(torch.arange(start, start + _TOKENS)[None])
    return seen
