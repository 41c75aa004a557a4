"""LoRA on the upper blocks of the whole, stock model: the arithmetic both baselines share.

Same layers, seeds, optimizer, batch order and defaults as a SplitFrozen job; what differs is only
that here every step runs the whole model, from the token ids up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import save
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.labelled import Labelled
from splitfrozen_export.split import load_server_segment, lora_config, resolve_model

SCORED_AT_ONCE = 64


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the result, besides model and data."""

    cut: int = 3  # LoRA on blocks cut..L-1 only
    r: int = 8
    alpha: int = 16
    learning_rate: float = 1e-3
    schedule: str = "linear"  # constant | linear
    weight_decay: float = 0.01
    batch_size: int = 32
    epochs: int = 4
    max_length: int = 512  # tokens
    seed: int = 0


@dataclass(frozen=True)
class Encoded:
    """One example as the model takes it."""

    ids: tuple[int, ...]
    label: int


@dataclass(frozen=True)
class Trainee:
    """A whole model with LoRA attached, its tokenizer and the order of its labels."""

    model: nn.Module
    tokenizer: Any
    labels: tuple[str, ...]
    recipe: Recipe
    pad_id: int

    def encode(self, rows: Iterable[Labelled]) -> list[Encoded]:
        """Tokenize; truncation keeps the first tokens."""
        index = {name: place for place, name in enumerate(self.labels)}
        return [Encoded(self._ids(row), index[row.label]) for row in rows]

    def _ids(self, row: Labelled) -> tuple[int, ...]:
        found = self.tokenizer(
            row.text, row.text_pair, truncation=True, max_length=self.recipe.max_length
        )
        return tuple(found["input_ids"])

    def weights(self) -> dict[str, nn.Parameter]:
        """What trains: LoRA factors and the head, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def body(self) -> bytes:
        """The trained weights as safetensors: what a device would upload."""
        return save({name: p.detach() for name, p in self.weights().items()})

    def optimizer(self) -> torch.optim.AdamW:
        """A fresh optimizer over everything that trains."""
        recipe = self.recipe
        return torch.optim.AdamW(
            list(self.weights().values()),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )


def load_trainee(model: str, labels: Sequence[str], recipe: Recipe) -> Trainee:
    """Load a Hub id or directory whole, in fp32, with a head and LoRA initialised from the seed."""
    source = resolve_model(model)
    config = _lora(model, len(labels), recipe)
    tokenizer = AutoTokenizer.from_pretrained(source.path)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        whole = AutoModelForSequenceClassification.from_pretrained(
            source.path, num_labels=len(labels), dtype=torch.float32
        )
        pad_id = _pad_id(whole.config)
        whole.config.pad_token_id = pad_id
        torch.manual_seed(recipe.seed)
        adapted: nn.Module = get_peft_model(whole, config)
    # The base's dropout stays off: what is frozen must behave as a constant.
    return Trainee(adapted.eval(), tokenizer, tuple(labels), recipe, pad_id)


def train_batches(
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Sequence[Encoded]],
    *,
    start: float,
    end: float,
    steps: int,
) -> Iterator[float]:
    """Step once per batch and yield its loss; `start`..`end` of the whole run are these `steps`."""
    for step, batch in enumerate(batches):
        rate = _rate(trainee.recipe, start + (end - start) * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = F.cross_entropy(logits(trainee, batch), _targets(batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield loss.item()


def accuracy(trainee: Trainee, examples: Sequence[Encoded]) -> float:
    """Share of examples whose largest logit is their label's."""
    ordered = sorted(examples, key=lambda example: len(example.ids))
    right = 0
    with torch.inference_mode():
        for start in range(0, len(ordered), SCORED_AT_ONCE):
            batch = ordered[start : start + SCORED_AT_ONCE]
            right += int((logits(trainee, batch).argmax(-1) == _targets(batch)).sum())
    return right / len(examples)


def logits(trainee: Trainee, batch: Sequence[Encoded]) -> Tensor:
    """Run the whole model on a batch padded on the right; float32 [batch, labels]."""
    longest = max(len(example.ids) for example in batch)
    ids = torch.full((len(batch), longest), trainee.pad_id)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        mask[row, : len(example.ids)] = 1
    found: Tensor = trainee.model(input_ids=ids, attention_mask=mask).logits
    return found


def _targets(batch: Sequence[Encoded]) -> Tensor:
    return torch.tensor([example.label for example in batch])


def _rate(recipe: Recipe, progress: float) -> float:
    return recipe.learning_rate * (1 - progress if recipe.schedule == "linear" else 1)


def _lora(model: str, labels: int, recipe: Recipe) -> LoraConfig:
    """The configuration a server would use, so that the same layers are frozen."""
    segment = load_server_segment(
        resolve_model(model), recipe.cut, "classification", num_labels=labels, seed=recipe.seed
    )
    return lora_config(segment, r=recipe.r, alpha=recipe.alpha, dropout=0.0)


def _pad_id(config: Any) -> int:
    """A decoder finds its last real token by this id, so it must not be one that ends a text."""
    for name in ("pad_token_id", "eos_token_id"):
        found = getattr(config, name, None)
        if isinstance(found, int) and found >= 0:
            return found
    return 0
