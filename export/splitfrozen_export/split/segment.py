"""The device segment as a module: a base model that hands out the activation at its cut."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from splitfrozen_export.split.blocks import find_blocks
from splitfrozen_export.split.context import capture, record
from splitfrozen_export.split.positions import accepts_positions, positions_from_mask


class DeviceSegment(nn.Module):
    """`forward(input_ids, attention_mask)`, int64 [batch, tokens] -> fp32 [batch, tokens, d].

    The family's final norm still runs after the last block, but nothing reads its result:
    an exporter drops it as dead code.
    """

    def __init__(self, model: nn.Module, cut: int, *, decoder: bool) -> None:
        """Wrap a base model whose block list is already cut to `cut` blocks."""
        super().__init__()
        self.model = model
        self.cut = cut
        self.is_decoder = decoder
        self._with_positions = decoder and accepts_positions(model)
        find_blocks(model, cut).modules[-1].register_forward_hook(_record_output)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the output of block cut-1; values at padded positions mean nothing."""
        positions: dict[str, Tensor] = {}
        if self._with_positions:
            positions["position_ids"] = positions_from_mask(attention_mask)
        with capture() as captured:
            self.model(input_ids=input_ids, attention_mask=attention_mask, **positions)
        return captured[-1]


class EveryBlock(nn.Module):
    """`forward` of a segment -> its result, then the outputs of all blocks but the last.

    Shares the modules of the segment, under the same names.
    """

    def __init__(self, segment: DeviceSegment) -> None:
        """Look into `segment`, which stays as it is."""
        super().__init__()
        self.model = segment.model
        self._whole = (segment,)  # in a tuple: its parameters must not have a second name

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Tensors fp32 [batch, tokens, d], `cut` of them."""
        (segment,) = self._whole
        seen: list[Tensor] = []

        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen.append(_activation(output))

        with ExitStack() as hooks:
            for block in find_blocks(self.model, segment.cut).modules[:-1]:
                hooks.enter_context(block.register_forward_hook(note))
            hidden: Tensor = segment(input_ids, attention_mask)
        return hidden, *seen


def keep_blocks(model: nn.Module, *, layers: int, cut: int) -> None:
    """Drop blocks cut..layers-1 of the block list in place."""
    del find_blocks(model, layers).modules[cut:]


def _record_output(_module: nn.Module, _inputs: Any, output: Any) -> None:
    """Forward hook; returns nothing, since a value would replace the block's output."""
    record(_activation(output))


def _activation(output: Any) -> Tensor:
    """What a block hands to the next one; some families return more beside it."""
    activation: Tensor = output[0] if isinstance(output, tuple) else output
    return activation
