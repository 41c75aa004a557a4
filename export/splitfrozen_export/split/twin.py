"""A random twin: the same family with random weights, small enough to build and run at once.

The twin answers questions of structure (which parameters a segment reads, what a block returns)
and carries the proof that a cut changes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from splitfrozen_export.split.blocks import count_layers
from splitfrozen_export.split.classes import Use, model_class
from splitfrozen_export.split.shrink import shrink_depth, shrink_vocabulary, shrink_width

_NOISE = 0.1


def twin_config(config: Any, layers: int, *, code: str | None = None) -> Any:
    """The configuration of a twin of at most `layers` layers.

    A family whose narrow form does not run (its widths depend on each other in a way of its own)
    gets a twin of full width.
    """
    shallow = shrink_depth(config, min(layers, count_layers(config)))
    try:
        narrow = shrink_width(shallow)
        _run_once(build_twin(narrow, "base", code=code), narrow)
    except Exception:  # whatever a family's own code raises, the answer is the same
        return shrink_vocabulary(shallow)
    return narrow


def build_twin(config: Any, use: Use, *, code: str | None = None, seed: int = 0) -> nn.Module:
    """A model of `config` for `use` with random weights, none of them at a neutral value.

    Every parameter asks for a gradient, also the ones that its family freezes. The caller's
    random state is left alone.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = model_class(config, use, code=code)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # norms start at 1, biases at 0
                parameter.add_(torch.randn_like(parameter) * _NOISE)
    return model.requires_grad_(True)


def sample_ids(config: Any, batch: int, tokens: int, *, seed: int = 0) -> Tensor:
    """Random token ids int64 [batch, tokens], none of which is the padding id."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, tokens)
    ids = torch.randint(0, int(config.vocab_size) - 1, shape, generator=generator)
    padding = pad_id(config)
    return torch.where(ids >= padding, ids + 1, ids)


def pad_id(config: Any) -> int:
    """The padding id; 0 when the family declares none."""
    declared = getattr(config, "pad_token_id", None)
    return 0 if declared is None else max(int(declared), 0)  # some old checkpoints say -1


def _run_once(model: nn.Module, config: Any) -> None:
    ids = sample_ids(config, 2, 6)
    with torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
