"""Examples of a training file -> the padded tensors of one step. Decodes; pads on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from splitfrozen.quantize import Float32
from splitfrozen.wire import IGNORED_TARGET, Shard
from splitfrozen_server.worker.materialise import TrainingFile


@dataclass(frozen=True)
class Batch:
    """B examples padded to the longest, T tokens; exactly one of labels and targets is set."""

    hidden: Tensor  # float32 [B, T, d], zeros at padding
    mask: Tensor  # int64 [B, T], 1 on tokens
    labels: Tensor | None = None  # int64 [B]
    targets: Tensor | None = None  # int64 [B, T], unshifted; -100 is not trained on

    @property
    def examples(self) -> int:
        return int(self.mask.shape[0])

    def to(self, device: torch.device) -> Batch:
        return Batch(
            hidden=self.hidden.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
            targets=None if self.targets is None else self.targets.to(device, non_blocking=True),
        )


def training_batch(
    file: TrainingFile,
    rows: Sequence[int],
    task: str,
    *,
    labels: Mapping[int, int] | None = None,
) -> Batch:
    """Read and pad these rows of a training file; `labels` renumbers its label ids."""
    hidden, mask = pad([file.activations(row) for row in rows])
    if task == "classification":
        found = [file.label(row) for row in rows]
        wanted = found if labels is None else [labels[label] for label in found]
        return Batch(hidden, mask, labels=torch.tensor(wanted, dtype=torch.int64))
    targets = torch.full(tuple(mask.shape), IGNORED_TARGET, dtype=torch.int64)
    for place, row in enumerate(rows):
        ids = torch.from_numpy(file.targets(row).astype(np.int64))
        targets[place, : len(ids)] = ids
    return Batch(hidden, mask, targets=targets)


def shard_batches(shard: Shard, size: int) -> list[tuple[list[int], Batch]]:
    """Cut a shard without labels into batches of similar length, with each row's place in it."""
    activations = shard.activations()
    ends = np.cumsum(shard.lengths)
    examples = [activations[end - n : end] for end, n in zip(ends, shard.lengths, strict=True)]
    order = sorted(range(len(examples)), key=lambda row: len(examples[row]))
    batches = []
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        batches.append((rows, Batch(*pad([examples[row] for row in rows]))))
    return batches


def pad(examples: Sequence[Float32]) -> tuple[Tensor, Tensor]:
    """Stack float32 [tokens, d] arrays to ([B, T, d], mask int64 [B, T]), padded on the right."""
    longest = max(len(example) for example in examples)
    hidden = torch.zeros(len(examples), longest, examples[0].shape[1], dtype=torch.float32)
    mask = torch.zeros(len(examples), longest, dtype=torch.int64)
    for place, example in enumerate(examples):
        # A copy: the rows may lie in a read-only map, which torch does not take.
        hidden[place, : len(example)] = torch.tensor(example)
        mask[place, : len(example)] = 1
    return hidden, mask
