"""Prove that a cut changes nothing: device then server segment equals the whole model."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from splitfrozen_export.split.checkpoint import checkpoint_bytes
from splitfrozen_export.split.classes import is_decoder
from splitfrozen_export.split.device import load_device_segment
from splitfrozen_export.split.positions import accepts_positions, positions_from_mask
from splitfrozen_export.split.refuse import check_cut
from splitfrozen_export.split.server import load_server_segment, run_segment
from splitfrozen_export.split.source import ModelSource
from splitfrozen_export.split.tasks import Task
from splitfrozen_export.split.twin import build_twin, pad_id, sample_ids, twin_config
from splitfrozen_export.split.whole import load_whole_model

Batch = tuple[Tensor, Tensor]  # token ids and mask, int64 [batch, tokens]
_BATCH, _TOKENS = 3, 12
CHEAP_BYTES = 2_000_000_000  # of the checkpoint, in its own dtype: seconds, not minutes


@dataclass(frozen=True)
class Proof:
    """Largest absolute differences of the logits over real tokens; 0.0 means bit for bit."""

    twin_difference: float  # a random twin: same class, layer kinds and cut, few channels
    real_difference: float | None  # the model itself; None when it was not asked for


def prove_cut(source: ModelSource, cut: int, *, real: bool) -> Proof:
    """Measure device-then-server against the whole model on a random twin.

    With `real` also on the model itself: that reads the whole checkpoint, six times, but holds
    one layer of it at a time. Raises ModelError `model_not_supported` when the model cannot be
    cut there.
    """
    check_cut(source.config, cut, code=source.code)
    with tempfile.TemporaryDirectory(prefix="splitfrozen-twin-") as directory:
        twin = _write_twin(source, cut, Path(directory))
        twin_difference = _measure(twin, cut)
    return Proof(twin_difference, _measure(source, cut) if real else None)


def worth_proving(source: ModelSource) -> bool:
    """Whether the proof on the weights themselves is cheap enough to run without being asked for.

    It is when the whole checkpoint has at most `CHEAP_BYTES`. Larger ones are left to the twin,
    which has the same code, layer kinds and cut: what is above the cut of a large model is then
    neither read nor downloaded.
    """
    return checkpoint_bytes(source) <= CHEAP_BYTES


def _write_twin(source: ModelSource, cut: int, directory: Path) -> ModelSource:
    """Save a twin with two blocks above the cut, so that it is loaded like any model."""
    config = twin_config(source.config, cut + 2, code=source.code)
    config.pad_token_id = pad_id(config)
    model = build_twin(config, _task(config), code=source.code)
    assert isinstance(model, PreTrainedModel)
    model.save_pretrained(directory)
    for script in source.path.glob("*.py") if source.trust_remote_code else ():
        shutil.copy(script, directory)
    return ModelSource(directory, source.id, None, config, source.trust_remote_code)


def _measure(source: ModelSource, cut: int) -> float:
    """Only one model at a time is in memory."""
    ids = sample_ids(source.config, _BATCH, _TOKENS)
    masks = _masks(decoder=is_decoder(source.config))
    batches = [(ids.masked_fill(mask == 0, pad_id(source.config)), mask) for mask in masks]
    whole = _run_whole(source, batches)
    split = _run_split(source, cut, batches)
    return max(_difference(*run) for run in zip(whole, split, masks, strict=True))


@torch.no_grad()
def _run_whole(source: ModelSource, batches: list[Batch]) -> list[Tensor]:
    model = load_whole_model(source, _task(source.config), stream=True)
    with_positions = is_decoder(source.config) and accepts_positions(model)
    outputs = []
    for ids, mask in batches:
        positions = {"position_ids": positions_from_mask(mask)} if with_positions else {}
        outputs.append(model(input_ids=ids, attention_mask=mask, **positions).logits)
    return outputs


@torch.no_grad()
def _run_split(source: ModelSource, cut: int, batches: list[Batch]) -> list[Tensor]:
    device = load_device_segment(source, cut, stream=True)
    hidden = [device(ids, mask) for ids, mask in batches]
    del device
    server = load_server_segment(source, cut, _task(source.config), stream=True)
    return [
        run_segment(server, activation, mask)
        for activation, (_, mask) in zip(hidden, batches, strict=True)
    ]


def _difference(whole: Tensor, split: Tensor, mask: Tensor) -> float:
    """Largest difference over real tokens; infinite where either side is not finite."""
    difference = (whole - split).abs()
    if difference.dim() == mask.dim() + 1:
        difference = difference[mask.bool()]
    return float(torch.nan_to_num(difference, nan=torch.inf).max())


def _masks(*, decoder: bool) -> list[Tensor]:
    full = torch.ones(_BATCH, _TOKENS, dtype=torch.long)
    right = full.clone()
    for row in range(1, _BATCH):
        right[row, _TOKENS - 3 * row :] = 0
    return [full, right, right.flip(-1)] if decoder else [full, right]


def _task(config: PretrainedConfig) -> Task:
    return "causal_lm" if is_decoder(config) else "classification"
