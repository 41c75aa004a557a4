"""How good the model is on examples that it is not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from splitfrozen_export.split import enable_lora_dropout, run_segment
from splitfrozen_server.worker.batch import Batch
from splitfrozen_server.worker.trainer import NotFiniteError, shifted, target_count


@dataclass(frozen=True)
class Evaluation:
    """One look at the held-out examples, at a step and a place between the epochs."""

    step: int
    epoch: float
    examples: int
    loss: float  # mean cross-entropy in nats: per example, or per target token
    accuracy: float | None  # classification
    perplexity: float | None  # causal_lm

    def metrics(self) -> dict[str, float]:
        """The numbers that exist, under the names of OpenAI's validation metrics."""
        named = {
            "valid_loss": self.loss,
            "valid_accuracy": self.accuracy,
            "valid_perplexity": self.perplexity,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass
class _Tally:
    """Sums over the batches seen so far."""

    examples: int = 0
    counted: int = 0
    correct: int = 0
    loss: float = 0.0


def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    task: str,
    *,
    step: int,
    epoch: float,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Evaluation:
    """Score the batches without gradients or dropout; each takes a `turn` of its own.

    The model is one that is being trained: it goes back to that mode. Raises NotFiniteError when
    the mean loss is NaN or infinite.
    """
    tally = _Tally()
    enable_lora_dropout(model, enabled=False)
    try:
        for batch in batches:
            with turn(), torch.inference_mode():
                _add(tally, model, batch)
    finally:
        enable_lora_dropout(model, enabled=True)
    mean = tally.loss / max(tally.counted, 1)
    if not math.isfinite(mean):
        raise NotFiniteError(f"the validation loss is {mean} after step {step}")
    return Evaluation(
        step=step,
        epoch=epoch,
        examples=tally.examples,
        loss=mean,
        accuracy=tally.correct / max(tally.counted, 1) if task == "classification" else None,
        perplexity=_perplexity(mean) if task == "causal_lm" else None,
    )


def _add(tally: _Tally, model: nn.Module, batch: Batch) -> None:
    batch = batch.to(next(model.parameters()).device)
    logits = run_segment(model, batch.hidden, batch.mask).float()
    tally.examples += batch.examples
    tally.counted += target_count(batch)
    if batch.labels is not None:
        tally.loss += F.cross_entropy(logits, batch.labels, reduction="sum").item()
        tally.correct += int((logits.argmax(-1) == batch.labels).sum())
    elif batch.targets is not None:
        flat = shifted(batch.targets).flatten()
        tally.loss += F.cross_entropy(logits.flatten(0, 1), flat, reduction="sum").item()


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # math.exp overflows just above
