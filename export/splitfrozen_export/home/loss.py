"""What a precision costs a whole language model: nats per token, in ONNX Runtime and in torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from splitfrozen_export.home.answering import Answering
from splitfrozen_export.home.check import batch_size, open_graph, run_both
from splitfrozen_export.measure.loss import Windows, next_token_losses
from splitfrozen_export.steps import OnPart

_BATCH = 8  # windows that run together


@dataclass(frozen=True)
class HomeLoss:
    """Mean negative log-likelihood of the next token, nats per token."""

    torch: float  # the model in fp32, its adapter merged
    exported: float  # the graph in ONNX Runtime
    gap: float  # exported - torch
    tokens: int  # predicted
    windows: int


def measure_home_loss(
    graph: Path, module: Answering, windows: Windows, on_part: OnPart
) -> HomeLoss:
    """Loss of the graph and of `module`, from which it was traced, on windows of one length.

    `on_part` is told how many windows are done, of how many.
    """
    session = open_graph(graph)
    ids = torch.tensor(windows, dtype=torch.int64)
    sums = np.zeros(2)
    rows = batch_size(module, windows, _BATCH)
    for start in range(0, len(ids), rows):
        part = ids[start : start + rows]
        for side, logits in enumerate(run_both(session, module, part, torch.ones_like(part), None)):
            sums[side] += float(next_token_losses(torch.from_numpy(logits), part).double().sum())
        on_part(min(start + rows, len(ids)), len(ids))
    tokens = ids[:, 1:].numel()
    wanted, found = (float(value) for value in sums / tokens)
    return HomeLoss(wanted, found, found - wanted, tokens, len(ids))
