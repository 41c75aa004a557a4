"""Run a written graph with plain ONNX Runtime and hold it against torch, call by call.

The logits of a vocabulary of 128,000 take half a megabyte a token: those of one call are the most
that is held of either side. Torch reads its weights from the checkpoint while it runs, so both
sides together take little more memory than the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitfrozen_export.home.answering import Answering
from splitfrozen_export.measure.batches import Ids
from splitfrozen_export.measure.limits import judge_logits
from splitfrozen_export.request import Request

# Largest relative error of the logits that is accepted unless the user says more. Measured on
# held-out text with a real small Llama, all 5 blocks and the head, plain (calibrated,
# --keep-fp auto):
#   int8      0.0136 (0.0134)   same most likely token for 97.9 % (97.5 %)
#   int8-hq   0.0098 (0.0097)   98.3 % (98.3 %)
#   int4      0.056 (0.053)     91.0 % (92.1 %)
#   int4-all  0.102 (0.109)     81.1 % (82.4 %)
# fp32 is below 1e-6. Two blocks of the same model come to 0.021 and 0.151 at a cut, and four of
# MiniLM to 0.049 and 0.161 (int8, int4-all), so what one model loses says little about the next:
# the limits are about twice those at a cut, for about twice the blocks. What a language model
# loses is better told by --eval.
MAX_LOGIT_ERROR = {"fp32": 1e-4, "int8": 0.2, "int8-hq": 0.1, "int4": 0.4, "int4-all": 0.6}
_BATCH = 4
_LOGITS = 1 << 25  # numbers that one call may return: 128 MB
_VALUES = 1 << 22  # numbers that are compared together, in double precision
_TINY = 1e-30  # instead of the norm of logits that are all zero

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class HomeReport:
    """How far the graph's answers are from torch's."""

    relative_error: float  # of the logits of all real tokens, against their norm
    largest_difference: float  # of one logit
    same_choice: float  # share of tokens, or texts, whose largest logit is the same
    compared: int  # tokens, or texts for a classifier


def compare_graph(graph: Path, module: Answering, examples: Sequence[Ids]) -> HomeReport:
    """Run token ids through both: in padded batches, then behind a past, as generation runs."""
    session = open_graph(graph)
    tally = _Tally()
    for ids, mask in _batches(examples, batch_size(module, examples, _BATCH)):
        tally.add(*_both(session, module, ids, mask, None))
        if getattr(module, "forms", None) and ids.shape[1] > 2:
            past = _past_of(module, ids[:, :-2], mask[:, :-2])
            tally.add(*_both(session, module, ids, mask, past))
    return tally.report()


def batch_size(module: Answering, examples: Sequence[Ids], most: int) -> int:
    """How many examples may run together so that their logits take little memory; at most `most`.

    A classifier has few logits, a language model those of its vocabulary for every token.
    """
    config: Any = module.model.config
    tokens = max((len(ids) for ids in examples), default=1)
    return max(1, min(most, _LOGITS // (max(1, tokens) * int(config.vocab_size))))


def open_graph(graph: Path) -> ort.InferenceSession:
    """Load a graph on the CPU."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def run_both(
    session: ort.InferenceSession,
    module: Answering,
    ids: Tensor,
    mask: Tensor,
    past: list[Tensor] | None,
) -> tuple[Logits, Logits]:
    """The logits of torch and of the graph for the tokens of `ids` behind `past`."""
    fed = module.feed(ids, mask, past)
    answer = module(*fed.values())
    wanted = (answer[0] if isinstance(answer, tuple) else answer).numpy()
    (found,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in fed.items()})
    return wanted, found


def judge_home(report: HomeReport, request: Request) -> None:
    """Raise SplitFrozenError `check_failed` when the answers are further off than allowed."""
    judge_logits(report.relative_error, MAX_LOGIT_ERROR[request.precision], request)


class _Tally:
    """Sums over all logits that were compared, so that none is kept."""

    def __init__(self) -> None:
        self.error = self.norm = 0.0  # squared
        self.largest = 0.0
        self.same = self.compared = 0

    def add(self, wanted: Logits, found: Logits) -> None:
        """Count logits [n, choices] of both sides."""
        rows = max(1, _VALUES // wanted.shape[1])
        for start in range(0, len(wanted), rows):
            want = wanted[start : start + rows].astype(np.float64)
            apart = np.abs(found[start : start + rows] - want)
            self.error += float(np.square(apart).sum())
            self.norm += float(np.square(want).sum())
            self.largest = max(self.largest, float(apart.max()))
        self.same += int((wanted.argmax(-1) == found.argmax(-1)).sum())
        self.compared += len(wanted)

    def report(self) -> HomeReport:
        return HomeReport(
            relative_error=float(np.sqrt(self.error / max(self.norm, _TINY))),
            largest_difference=self.largest,
            same_choice=self.same / self.compared,
            compared=self.compared,
        )


def _both(
    session: ort.InferenceSession,
    module: Answering,
    ids: Tensor,
    mask: Tensor,
    past: list[Tensor] | None,
) -> tuple[Logits, Logits]:
    """Logits [n, choices] of real tokens, or of texts."""
    wanted, found = run_both(session, module, ids, mask, past)
    if wanted.ndim == 2:
        return wanted, found
    real = mask[:, -wanted.shape[1] :].bool().numpy()
    return wanted[real], found[real]


@torch.no_grad()
def _past_of(module: Answering, ids: Tensor, mask: Tensor) -> list[Tensor]:
    return list(module(*module.feed(ids, mask, None).values())[1:])


def _batches(examples: Sequence[Ids], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(examples), size):
        yield _padded(examples[start : start + size])


def _padded(texts: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Pad left, as generation does."""
    longest = max(1, *(len(ids) for ids in texts))
    ids = torch.zeros(len(texts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        if text:
            ids[row, -len(text) :] = torch.tensor(text)
            mask[row, -len(text) :] = 1
    return ids, mask
