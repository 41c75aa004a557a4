"""What the linear layers of a segment receive on real text: largest values, and some rows.

Only what tells one channel from another is kept, so a calibration of a large model takes
megabytes. Runs with any segment, also with one that reads its weights while it runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitfrozen.errors import DataError
from splitfrozen_export.measure.batches import Ids, pad_batch
from splitfrozen_export.precision.census import LINEAR
from splitfrozen_export.precision.products import layer_name

BATCH = 16  # examples that run together, of about the same length
ROWS = 256  # inputs of each layer that are kept

Array = NDArray[np.float32]
OnPart = Callable[[int, int], None]
Call = Callable[[Tensor, Tensor], object]
_Seen = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Calibration:
    """The inputs of the linear layers on some texts, by layer."""

    largest: Mapping[str, Array]  # [K]: the largest |input| of each channel
    rows: Mapping[str, Array]  # [at most ROWS, K]: inputs of tokens spread over the texts
    digest: str  # SHA-256, hex, of the token ids that were run


def calibrate(
    segment: nn.Module,
    examples: Sequence[Ids],
    on_part: OnPart | None = None,
    *,
    call: Call | None = None,
    name: Callable[[str], str] = layer_name,
    batch: int = BATCH,
) -> Calibration:
    """Run token ids through a segment and note what each linear layer receives.

    `on_part` is told how many examples of how many are done. Of another module than a
    DeviceSegment, `call` runs it on ids and mask, int64 [batch, tokens], and `name` gives the
    layer that a module's path stands for. `batch` examples run together. Raises DataError when
    there is no example with a token in it.
    """
    kept = sorted((list(ids) for ids in examples if len(ids)), key=len)
    if not kept:
        raise DataError("there is no text to calibrate on; give a few dozen typical ones")
    batches = [kept[start : start + batch] for start in range(0, len(kept), batch)]
    largest: dict[str, Tensor] = {}
    rows: dict[str, list[Tensor]] = {}
    share = -(-ROWS // len(batches))

    def note(layer: str, inputs: Tensor) -> None:
        seen = inputs.abs().amax(dim=0)
        largest[layer] = torch.maximum(largest.get(layer, seen), seen)
        spread = torch.linspace(0, len(inputs) - 1, min(share, len(inputs))).long()
        rows.setdefault(layer, []).append(inputs[spread].clone())

    for done, part in enumerate(batches, 1):
        with _watch(segment, name, _real_only(part, note)), torch.no_grad():
            (call or segment)(*map(torch.from_numpy, pad_batch(part)))
        if on_part is not None:
            on_part(min(done * batch, len(kept)), len(kept))
    return Calibration(
        {layer: seen.numpy() for layer, seen in largest.items()},
        {layer: torch.cat(parts).numpy()[:ROWS] for layer, parts in rows.items()},
        _digest(examples),
    )


def _real_only(batch: Sequence[Ids], note: _Seen) -> _Seen:
    """Notes the inputs [.., K] of a layer as [n, K], without those of padding."""
    real = torch.from_numpy(pad_batch(batch)[1]).bool()

    def note_real(layer: str, inputs: Tensor) -> None:
        flat = inputs.detach().reshape(-1, inputs.shape[-1])
        if len(flat) == real.numel():  # else no tokens: DeBERTa's relative positions
            flat = flat[real.flatten()]
        note(layer, flat)

    return note_real


@contextmanager
def _watch(segment: nn.Module, name: Callable[[str], str], seen: _Seen) -> Iterator[None]:
    """Tell `seen` each linear layer and its input, as long as the context lasts."""
    with ExitStack() as hooks:
        for path, module in segment.named_modules():
            if isinstance(module, LINEAR):
                hooks.enter_context(module.register_forward_pre_hook(_hook(name(path), seen)))
        yield


def _hook(layer: str, seen: _Seen) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen(layer, inputs[0])

    return record


def _digest(examples: Sequence[Ids]) -> str:
    rows = json.dumps([[int(token) for token in ids] for ids in examples])
    return hashlib.sha256(rows.encode()).hexdigest()
