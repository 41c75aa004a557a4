"""Trade time for memory: keep the input of each block only, and run it again going backward."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from splitfrozen_export.split.blocks import find_blocks
from splitfrozen_export.split.server import ServerSegment, unwrap


def checkpoint_blocks(segment: ServerSegment) -> None:
    """Checkpoint every block above the cut; results stay the same to the bit. Do it once.

    Transformers' own switch acts in training mode only, which would turn the base model's
    dropout on, and its reentrant form needs a gradient at the (constant) input.
    """
    blocks = find_blocks(unwrap(segment), segment.num_layers).modules
    for block in blocks[segment.cut :]:
        _wrap(block)


def _wrap(block: nn.Module) -> None:
    block.forward = partial(checkpoint, block.forward, use_reentrant=False)
