"""How far a job has come: what is saved with every checkpoint and put back from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from splitfrozen_server.worker import checkpoint
from splitfrozen_server.worker.evaluate import Evaluation
from splitfrozen_server.worker.job import BaseModel
from splitfrozen_server.worker.model import (
    AdaptedModel,
    adapter_config_bytes,
    adapter_tensors,
    restore_adapter,
)
from splitfrozen_server.worker.schedule import Boundary
from splitfrozen_server.worker.trainer import TrainState, optimizer_tensors, restore_optimizer


@dataclass
class Progress:
    """Besides weights and moments, which live in the model and the optimizer."""

    evaluations: list[Evaluation] = field(default_factory=list)
    trained_tokens: int = 0
    train_loss: float | None = None  # of the last step
    admissions: list[Boundary] = field(default_factory=list)  # the log so far

    @property
    def evaluated_epoch(self) -> float:
        """Where the last evaluation was made; -1 before the first."""
        return self.evaluations[-1].epoch if self.evaluations else -1.0

    def metrics(self) -> dict[str, float]:
        """The newest numbers, under the names that events and checkpoints use."""
        found = {} if self.train_loss is None else {"train_loss": self.train_loss}
        return found | (self.evaluations[-1].metrics() if self.evaluations else {})

    def final_metrics(self) -> dict[str, float]:
        """The newest numbers, and beside them those before training."""
        if not self.evaluations or self.evaluations[0].step > 0:
            return self.metrics()
        before = self.evaluations[0].metrics()
        return self.metrics() | {f"{name}_before": value for name, value in before.items()}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Progress:
        return cls(
            evaluations=[Evaluation(**entry) for entry in fields["evaluations"]],
            trained_tokens=fields["trained_tokens"],
            train_loss=fields["train_loss"],
            admissions=[Boundary(**entry) for entry in fields["admissions"]],
        )


def save(
    directory: Path, adapted: AdaptedModel, state: TrainState, progress: Progress, base: BaseModel
) -> str:
    """Publish a checkpoint of this moment and return its name."""
    return checkpoint.save(
        directory,
        checkpoint.Checkpoint(
            step=state.steps,
            adapter=adapter_tensors(adapted.model),
            adapter_config=adapter_config_bytes(adapted.model, base),
            optimizer=optimizer_tensors(state),
            state=progress.to_json(),
        ),
    )


def restore(
    directory: Path, adapted: AdaptedModel, state: TrainState, log: Sequence[Boundary]
) -> Progress:
    """Continue from the newest sound checkpoint whose past is a part of `log`, or start afresh."""
    found = checkpoint.newest(directory)
    if found is None:
        return Progress()
    progress = Progress.from_json(found.state)
    if progress.admissions != list(log[: len(progress.admissions)]):
        # The server was restored from a backup. These checkpoints must go: their steps are higher
        # than those now made, and the log may come to look like theirs over other shards.
        checkpoint.drop_all(directory)
        return Progress()
    restore_adapter(adapted.model, found.adapter)
    state.steps = found.step
    restore_optimizer(state, found.optimizer)
    return progress
