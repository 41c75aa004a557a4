"""A job's view of its datasets: which rows it trains on, which it is scored on, which it skips."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splitfrozen.errors import DataError
from splitfrozen.wire import IGNORED_TARGET, decode
from splitfrozen_server.worker.batch import Batch, training_batch
from splitfrozen_server.worker.job import ShardRef
from splitfrozen_server.worker.materialise import Rows, TrainingFile

EVALUATION_BATCH = 64  # examples


@dataclass
class TrainingRows:
    """The rows of the training dataset that the job has admitted so far."""

    file: TrainingFile
    num_labels: int | None  # of the frozen list; None for causal_lm
    eval_fraction: float
    admitted: int = 0  # sequence number of the newest admitted shard
    train: list[int] = field(default_factory=list)
    held_out: list[int] = field(default_factory=list)
    skipped: int = 0  # examples whose label came after the list was frozen
    targetless: int = 0  # causal_lm examples that predict nothing
    bundles: set[str] = field(default_factory=set)

    def admit(self, until: int) -> list[int]:
        """Take in the shards up to sequence `until`; returns the lengths of new training rows."""
        lengths: list[int] = []
        for shard in self.file.shards(self.admitted, until):
            kind = self._classify(shard)
            rows = np.arange(shard.first, shard.first + len(kind))
            self.train += rows[kind == _TRAIN].tolist()
            self.held_out += rows[kind == _HELD_OUT].tolist()
            self.skipped += int((kind == _SKIPPED).sum())
            self.targetless += int((kind == _TARGETLESS).sum())
            self.bundles.add(shard.bundle)
            lengths += shard.lengths[kind == _TRAIN].tolist()
        self.admitted = until
        return lengths

    def pending(self, until: int) -> int:
        """How many training rows `admit(until)` would add."""
        shards = self.file.shards(self.admitted, until)
        return sum(int((self._classify(shard) == _TRAIN).sum()) for shard in shards)

    def _classify(self, shard: Rows) -> NDArray[np.int8]:
        kind = np.where(is_held_out(shard.example_ids, self.eval_fraction), _HELD_OUT, _TRAIN)
        if shard.labels is not None and self.num_labels is not None:
            kind = np.where(shard.labels < self.num_labels, kind, _SKIPPED)
        if shard.targets is not None:
            kind = np.where(predicted_tokens(shard.targets, shard.lengths) > 0, kind, _TARGETLESS)
        return kind.astype(np.int8)


_TRAIN, _HELD_OUT, _SKIPPED, _TARGETLESS = 0, 1, 2, 3


@dataclass(frozen=True)
class HeldOut:
    """Rows to score on; `labels` renumbers those of another dataset to the job's list."""

    file: TrainingFile
    rows: Sequence[int]
    labels: Mapping[int, int] | None = None

    def batches(self, task: str) -> Iterator[Batch]:
        """The rows in batches of similar length."""
        order = sorted(self.rows, key=lambda row: (self.file.length(row), row))
        for start in range(0, len(order), EVALUATION_BATCH):
            rows = order[start : start + EVALUATION_BATCH]
            yield training_batch(self.file, rows, task, labels=self.labels)


def is_held_out(example_ids: NDArray[np.uint8], fraction: float) -> NDArray[np.bool_]:
    """Which examples (ids [examples, 16]) are for evaluation: the same ones in every job."""
    leading = np.ascontiguousarray(example_ids[:, :8]).view(">u8")[:, 0]
    return np.asarray(leading.astype(np.float64) / 2.0**64 < fraction)


def predicted_tokens(targets: NDArray[np.int32], lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many targets of each example, [examples], count in the loss.

    The first token of an example is never predicted. A batch of examples with none has no mean
    loss: one such example, alone in its batch, would end the job.
    """
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    counted = (targets != IGNORED_TARGET).astype(np.int64)
    counted[starts] = 0
    return np.asarray(np.add.reduceat(counted, starts), np.int64)


def validation_labels(own: Sequence[str], job: Sequence[str]) -> dict[int, int]:
    """Label ids of a validation dataset -> ids of the job. DataError for names the job lacks."""
    index = {name: place for place, name in enumerate(job)}
    if unknown := [name for name in own if name not in index]:
        raise DataError(
            f"the validation dataset has labels that training lacks: {', '.join(unknown[:5])}",
            field="validation_file",
        )
    return {place: index[name] for place, name in enumerate(own)}


def fetch(file: TrainingFile, shards: Iterable[ShardRef]) -> None:
    """Append the shards that the file lacks. DataError when a stored body is damaged or gone."""
    for shard in shards:
        if shard.sequence <= file.last_sequence:
            continue
        try:
            body = Path(shard.path).read_bytes()
        except FileNotFoundError:
            raise DataError(
                f"the bytes of shard {shard.sequence} are gone; restore them from a backup of the "
                "data directory",
                path=shard.path,
            ) from None
        if hashlib.sha256(body).hexdigest() != shard.digest:
            raise DataError("the stored shard does not hash to its digest", path=shard.path)
        file.append(shard.sequence, shard.digest, decode(body))
