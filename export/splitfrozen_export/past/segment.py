"""The device segment as a module that takes its past keys and values and gives them back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from splitfrozen_export.past.inputs import (
    KeyValue,
    cached_tensors,
    forms_of,
    prefilled_cache,
    require_plain_cache,
)
from splitfrozen_export.split import DeviceSegment
from splitfrozen_export.split.context import capture
from splitfrozen_export.split.positions import accepts_positions, positions_from_mask
from splitfrozen_export.split.stored import hollow


class CachedSegment(nn.Module):
    """`forward(input_ids, attention_mask, *past)` -> activations of the new tokens, then all keys.

    `past` holds keys and values of one block after the other, [batch, heads, past, width]. Every
    block keeps all of them, one with a sliding window too: its mask hides what lies outside, so
    one length holds for all blocks and a step needs no bookkeeping. Shares the modules of the
    segment, under the same names.
    """

    def __init__(self, segment: DeviceSegment) -> None:
        """Look into `segment`, which stays as it is; no stored weight is read.

        Raises ModelError `model_not_supported` when a block keeps anything but keys and values.
        """
        super().__init__()
        self.model = segment.model
        self._with_positions = accepts_positions(segment.model)
        require_plain_cache(segment.model.config)
        self.forms = _forms(self, segment.cut)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """`input_ids` int64 [batch, seq]; `attention_mask` int64 [batch, past + seq]."""
        cache = prefilled_cache(past) if past else DynamicCache()
        hidden = self._run(input_ids, attention_mask, cache)
        return (hidden, *cached_tensors(cache))

    def _run(self, input_ids: Tensor, attention_mask: Tensor, cache: DynamicCache) -> Tensor:
        positions: dict[str, Tensor] = {}
        if self._with_positions:
            new = input_ids.shape[1]
            positions["position_ids"] = positions_from_mask(attention_mask)[:, -new:]
        with capture() as captured:
            self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                past_key_values=cache,
                use_cache=True,
                **positions,
            )
        return captured[-1]


def _forms(module: CachedSegment, cut: int) -> list[KeyValue]:
    """What each block keeps, seen on one token; the weights' values do not matter."""
    token = torch.ones(1, 1, dtype=torch.int64)
    cache = DynamicCache()
    with torch.no_grad(), hollow(module):
        module._run(token, token, cache)
    forms = forms_of(cache)
    assert len(forms) == cut
    return forms
