"""The first gradient of a job: of the LoRA parameters above the cut, on some texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitfrozen_export.measure.batches import Ids
from splitfrozen_export.split import (
    ModelSource,
    load_server_segment,
    lora_config,
    run_segment,
)

Hidden = NDArray[np.float32]  # [tokens, d] of one text
_BATCH = 16
_IGNORED = -100  # targets that count for no loss


class LoraJob:
    """A server segment with a fresh LoRA, as a job starts with it."""

    def __init__(self, source: ModelSource, cut: int, labels: Sequence[int] | None) -> None:
        """With `labels` a classifier of the texts, without them a language model."""
        from peft import get_peft_model

        self._labels = labels
        task = "causal_lm" if labels is None else "classification"
        count = None if labels is None else max(labels) + 1
        server = load_server_segment(source, cut, task, num_labels=count)  # type: ignore[arg-type]
        config = lora_config(server, r=8, alpha=16, dropout=0.0)
        torch.manual_seed(0)
        model: Any = server.model
        self._model: nn.Module = get_peft_model(model, config).eval()

    def gradient(self, texts: Sequence[Ids], activations: Sequence[Hidden]) -> Tensor:
        """The gradient of the mean loss over all texts, as one vector."""
        self._model.zero_grad(set_to_none=True)
        for start in range(0, len(texts), _BATCH):
            part = slice(start, start + _BATCH)
            loss = self._loss(texts[part], activations[part], start)
            torch.autograd.backward(loss / len(texts))
        grads = [p.grad.flatten() for _, p in self._trained() if p.grad is not None]
        return torch.cat(grads).double()

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self._model.named_parameters() if "lora_" in name]

    def _loss(self, texts: Sequence[Ids], activations: Sequence[Hidden], start: int) -> Tensor:
        """Summed over the texts of one padded batch."""
        shape = (len(texts), max(map(len, texts)))
        hidden = torch.zeros(*shape, activations[0].shape[-1])
        mask = torch.zeros(shape, dtype=torch.int64)
        targets = torch.full(shape, _IGNORED)
        for row, (ids, values) in enumerate(zip(texts, activations, strict=True)):
            hidden[row, : len(ids)] = torch.from_numpy(values)
            mask[row, : len(ids)] = 1
            targets[row, : len(ids)] = torch.tensor(list(ids))
        logits = run_segment(self._model, hidden, mask)
        if self._labels is not None:
            classes = torch.tensor(list(self._labels[start : start + len(texts)]))
            return nn.functional.cross_entropy(logits, classes, reduction="sum")
        losses = nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), targets[:, 1:], reduction="none", ignore_index=_IGNORED
        )
        return (losses.sum(dim=1) / mask[:, 1:].sum(dim=1).clamp(min=1)).sum()


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two gradients; 1.0 is the same direction."""
    return float(nn.functional.cosine_similarity(a, b, dim=0))
