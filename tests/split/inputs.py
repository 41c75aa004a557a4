"""Token ids, masks and stock models that several tests of the split share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from splitfrozen_export.split.positions import accepts_positions, positions_from_mask

BATCH, TOKENS, LABELS = 3, 12, 3
PAD = 0  # for families that declare no padding id (GPT-2)


def make_mask(kind: str) -> Tensor:
    """int64 [3, 12]: `ones`, or rows of 12, 9 and 4 real tokens padded `right` or `left`."""
    mask = torch.ones(BATCH, TOKENS, dtype=torch.long)
    if kind != "ones":
        mask[1, 9:] = 0
        mask[2, 4:] = 0
    return mask.flip(-1) if kind == "left" else mask


def make_ids(config: Any, mask: Tensor, *, seed: int = 0) -> Tensor:
    """Random ordinary token ids, the padding id where the mask is 0."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 100, tuple(mask.shape), generator=generator)
    padding = PAD if config.pad_token_id is None else config.pad_token_id
    return ids.masked_fill(mask == 0, padding)


def load_stock(directory: Path, task: str, *, seed: int = 0) -> Any:
    """The untouched whole model for `task`, evaluation mode; a new head comes from `seed`."""
    torch.manual_seed(seed)
    if task == "causal_lm":
        model = AutoModelForCausalLM.from_pretrained(directory)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=LABELS)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = PAD
    return model.eval()


def run_stock(model: Any, ids: Tensor, mask: Tensor | None, *, left: bool = False) -> Tensor:
    """Logits of the whole model; left padding needs positions from the mask, as in generate()."""
    inputs: dict[str, Tensor] = {"input_ids": ids}
    if mask is not None:
        inputs["attention_mask"] = mask
    if left and mask is not None and accepts_positions(model):
        inputs["position_ids"] = positions_from_mask(mask)
    logits: Tensor = model(**inputs).logits
    return logits


def over_real_tokens(logits: Tensor, mask: Tensor) -> Tensor:
    """Per-token logits at real tokens; per-example logits unchanged."""
    return logits[mask.bool()] if logits.dim() == mask.dim() + 1 else logits


# PEFT 0.21 still asks Transformers 5.23 by the old name; neither is ours to change.
peft_asks_by_the_old_name = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
