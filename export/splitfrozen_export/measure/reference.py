"""What the device segment answers in torch, in fp32: the measure of every graph made from it.

Run before ONNX Runtime loads anything, so that only one of the two is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitfrozen_export.measure.batches import Batch, Ids, pad_batch, real_tokens, sample_batches
from splitfrozen_export.split import DeviceSegment
from splitfrozen_export.split.blocks import find_blocks


@dataclass(frozen=True)
class Reference:
    """Activations of real tokens, in the order of the batches and the examples in them."""

    batches: Sequence[Batch]
    hidden: NDArray[np.float32]  # [tokens, d], at the cut
    blocks: Sequence[NDArray[np.float32]]  # the same after each block below the last one


def run_reference(segment: nn.Module, examples: Sequence[Ids], *, max_length: int) -> Reference:
    """Run a segment on `sample_batches` of the examples.

    Only a DeviceSegment has blocks to look into; any other module gives `hidden` alone.
    """
    batches = sample_batches(examples, max_length)
    runs = [_run(segment, batch) for batch in batches]
    hidden, *blocks = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    return Reference(batches, hidden, blocks)


def run_torch(segment: nn.Module, batch: Batch) -> NDArray[np.float32]:
    """The activations at the cut, [tokens, d], of the real tokens of one batch."""
    ids, mask = pad_batch(batch)
    with torch.no_grad():
        hidden: Tensor = segment(torch.from_numpy(ids), torch.from_numpy(mask))
    return real_tokens(hidden.numpy(), batch)


def _run(segment: nn.Module, batch: Batch) -> list[NDArray[np.float32]]:
    with _block_outputs(segment) as outputs:
        hidden = run_torch(segment, batch)
    return [hidden, *(real_tokens(output.numpy(), batch) for output in outputs)]


@contextmanager
def _block_outputs(segment: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what every block but the last returns while the body runs the segment once."""
    outputs: list[Tensor] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    blocks: Sequence[nn.Module] = ()
    if isinstance(segment, DeviceSegment):
        blocks = list(find_blocks(segment.model, segment.cut).modules)[:-1]
    handles = [block.register_forward_hook(note) for block in blocks]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
