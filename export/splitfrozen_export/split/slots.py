"""Stand-ins for the blocks that the server does not own.

The block list keeps its full length, so that names, cache indices and layer kinds of the upper
blocks stay those of the whole model.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache

from splitfrozen_export.split.context import received


class Slot(nn.Module):
    """A block without parameters. `last` slots return the received activation instead of theirs.

    Whatever the embedding code made of the stand-in ids (positions, scaling, norms) is thereby
    discarded at the cut.
    """

    def __init__(self, block: nn.Module, index: int, *, last: bool, outputs: int) -> None:
        """Stand in for `block` at `index`; `outputs` is its tuple length, 0 for a bare tensor."""
        super().__init__()
        self.index = index
        self.last = last
        self.outputs = outputs
        for name in ("attention_type", "layer_type"):  # read by the model's own loop
            if isinstance(getattr(block, name, None), str):
                setattr(self, name, getattr(block, name))

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Take what the block takes and return what it returns."""
        hidden = received() if self.last else hidden_states
        for value in (*args, *kwargs.values()):
            if isinstance(value, Cache):
                _write_phantom(value, self.index, hidden)
        if self.outputs == 0:
            return hidden
        return (hidden, *[None] * (self.outputs - 1))


def _write_phantom(cache: Cache, index: int, hidden: Tensor) -> None:
    """Fill the slot's place in the cache with keys and values one channel wide.

    Sequence length and mask sizes are read from the first layer of a cache, which no real block
    of the server ever fills.
    """
    phantom = hidden.new_zeros(hidden.shape[0], 1, hidden.shape[1], 1)
    cache.update(phantom, phantom, index)
