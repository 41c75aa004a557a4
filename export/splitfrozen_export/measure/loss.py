"""What a precision costs a language model: nats per token, with the device segment replaced.

The whole model's loss needs no whole model: device segment then server segment is the whole
model, to the bit (`prove_cut`). So the fp32 server segment runs on three kinds of activations:
torch's, those of the graph in ONNX Runtime, and the same behind the wire codec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from splitfrozen.errors import DataError
from splitfrozen.quantize import decode_hidden, encode_hidden
from splitfrozen_export.measure.batches import Ids
from splitfrozen_export.measure.reference import run_torch
from splitfrozen_export.measure.verify import open_session, run_graph
from splitfrozen_export.split import ServerSegment, run_segment

Windows = Sequence[Ids]
Hidden = NDArray[np.float32]  # [windows, tokens, d]
OnPart = Callable[[int, int], None]

WINDOWS = 16  # pieces of the text, spread evenly over it
WINDOW = 256  # tokens of a piece, at most
_BATCH = 8  # windows that run together in torch
_LOGITS = 1 << 26  # numbers that one call of the server segment may return: 256 MB


@dataclass(frozen=True)
class LossReport:
    """Mean negative log-likelihood of the next token, nats per token."""

    whole: float  # the whole model in fp32
    device: float  # its device segment in ONNX Runtime
    wire: float  # and the activations coded for the wire
    device_gap: float  # device - whole
    wire_gap: float  # wire - whole
    tokens: int  # predicted
    windows: int


def cut_windows(ids: Ids, *, prefix: Ids, max_length: int, path: Path) -> list[list[int]]:
    """Take WINDOWS pieces of equal length out of a text's ids, each behind `prefix`.

    A short text gives one piece. Raises DataError when there is no next token to predict.
    """
    room = min(WINDOW, max_length) - len(prefix)
    length = min(room, len(ids))
    if length + len(prefix) < 2:
        raise DataError("is too short: a loss needs two tokens", path=str(path))
    count = min(WINDOWS, len(ids) // length)
    starts = [index * (len(ids) - length) // max(count - 1, 1) for index in range(count)]
    return [[*prefix, *ids[start : start + length]] for start in starts]


def run_windows(segment: nn.Module, windows: Windows) -> Hidden:
    """Activations at the cut in torch; several windows a call, since each reads the weights."""
    parts = [windows[start : start + _BATCH] for start in range(0, len(windows), _BATCH)]
    flat = np.concatenate([run_torch(segment, part) for part in parts])
    return flat.reshape(len(windows), len(windows[0]), -1)


def measure_loss(
    graph: Path,
    server: ServerSegment,
    windows: Windows,
    hidden: Hidden,
    *,
    wire: str,
    on_part: OnPart,
) -> LossReport:
    """Loss of `server` on torch's activations `hidden`, on the graph's, and on those after `wire`.

    All windows have one length. `on_part` is told how many windows are done, of how many.
    """
    device, coded = _run_device(graph, windows, wire)
    kinds = (hidden, device, coded)
    ids = torch.tensor(windows, dtype=torch.int64)
    sums = np.zeros(len(kinds))
    rows = max(1, _LOGITS // (ids.shape[1] * _vocabulary(server) * len(kinds)))
    for start in range(0, len(windows), rows):
        part = slice(start, start + rows)
        sums += _losses(server, ids[part], [kind[part] for kind in kinds])
        on_part(min(start + rows, len(windows)), len(windows))
    tokens = ids[:, 1:].numel()
    whole, quantized, wired = (float(value) for value in sums / tokens)
    return LossReport(
        whole, quantized, wired, quantized - whole, wired - whole, tokens, len(windows)
    )


def next_token_losses(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Loss of every token but the first, nats [batch * (tokens - 1)], from logits of all."""
    return nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
    )


def _run_device(graph: Path, windows: Windows, wire: str) -> tuple[Hidden, Hidden]:
    """The graph's activations, and the same as a server decodes them; the session ends here."""
    session = open_session(graph)
    hidden = np.concatenate([run_graph(session, [window])[0] for window in windows])
    tokens = hidden.reshape(-1, hidden.shape[-1])
    return hidden, decode_hidden(wire, *encode_hidden(wire, tokens)).reshape(hidden.shape)


def _losses(
    server: ServerSegment, ids: torch.Tensor, kinds: Sequence[Hidden]
) -> NDArray[np.float64]:
    """Summed loss of each kind of activations, all kinds in one call."""
    together = torch.from_numpy(np.concatenate(kinds))
    with torch.no_grad():
        logits = run_segment(server, together, torch.ones(together.shape[:2], dtype=torch.int64))
        losses = next_token_losses(logits, ids.repeat(len(kinds), 1))
    parts = losses.double().view(len(kinds), -1).sum(dim=1)
    result: NDArray[np.float64] = parts.numpy()
    return result


def _vocabulary(server: ServerSegment) -> int:
    config: Any = server.model.config
    return int(config.vocab_size)
