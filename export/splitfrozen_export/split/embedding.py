"""Leave out the server's token embedding where nothing but the cut would read it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

HAS_VALUES = "_is_hf_initialized"  # attribute by which Transformers leaves a tensor alone


class NoEmbedding(nn.Module):
    """Answers token ids with zeros; the last slot discards them anyway."""

    def __init__(self, width: int) -> None:
        """`width` is the channels per token that the embedding had."""
        super().__init__()
        self.width = width

    @property
    def weight(self) -> Tensor:
        """No rows; marked as initialised, because some families' initialisers look for it."""
        empty = torch.empty(0, self.width)
        setattr(empty, HAS_VALUES, True)
        return empty

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 [batch, tokens] -> zeros fp32 [batch, tokens, width]."""
        return torch.zeros(*input_ids.shape, self.width, device=input_ids.device)


def drop_embedding(model: Any) -> None:
    """Replace the token table, often half of a small model, unless the head shares it."""
    table = model.get_input_embeddings()
    if isinstance(table, nn.Embedding) and not model.all_tied_weights_keys:
        model.set_input_embeddings(NoEmbedding(table.embedding_dim))
