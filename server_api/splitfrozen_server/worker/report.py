"""Events and progress of one job, sent to the API in batches."""

from __future__ import annotations

import time
from typing import Any

from splitfrozen_server.worker.control_client import ControlClient
from splitfrozen_server.worker.evaluate import Evaluation
from splitfrozen_server.worker.job import LeasedJob
from splitfrozen_server.worker.trainer import StepMetrics

FLUSH_EVERY = 0.5  # seconds
FLUSH_AT = 100  # events
ALIVE_EVERY = 15.0  # seconds; without events a report still keeps the lease


class Reporter:
    """Collects events; each has a key, under which the API stores it once however often it comes.

    A job that goes on from a checkpoint repeats some steps bit for bit, and so their events.
    """

    def __init__(self, control: ControlClient, job: LeasedJob) -> None:
        self._control = control
        self._job = job
        self._events: list[dict[str, Any]] = []
        self._sent = time.monotonic()
        self.status = "running"  # of the job, as of the last flush
        self.total_steps: int | None = None  # known once the dataset is sealed
        self.waiting = False  # for shards or the seal

    def message(self, key: str, text: str, *, level: str = "info", **data: Any) -> None:
        self._add(key, "message", text, level, data)

    def step(self, metrics: StepMetrics, *, epoch: float, seconds: float) -> None:
        of = "" if self.total_steps is None else f"/{self.total_steps}"
        data = {
            "step": metrics.step,
            "total_steps": self.total_steps,
            "train_loss": metrics.loss,
            "learning_rate": metrics.learning_rate,
            "epoch": epoch,
            "examples": metrics.examples,
            "examples_per_second": metrics.examples / max(seconds, 1e-9),
        }
        text = f"Step {metrics.step}{of}: training loss={metrics.loss:.4f}"
        self._add(f"step:{metrics.step}", "metrics", text, "info", data)

    def evaluation(self, found: Evaluation) -> None:
        score = (
            f"accuracy={found.accuracy:.4f}"
            if found.accuracy is not None
            else f"perplexity={found.perplexity:.4f}"
        )
        text = f"Evaluation after step {found.step}: loss={found.loss:.4f}, {score}"
        data = {"step": found.step, "epoch": found.epoch, "examples": found.examples}
        self._add(f"eval:{found.step}", "metrics", text, "info", {**data, **found.metrics()})

    def flush(self, steps: int, *, trained_tokens: int, force: bool) -> None:
        """Send what is there; without `force` only when enough has gathered or time has passed."""
        now = time.monotonic()
        if not force and not self._is_due(now - self._sent):
            return
        progress = {
            "steps_completed": steps,
            "total_steps": self.total_steps,
            "trained_tokens": trained_tokens,
            "waiting": self.waiting,
        }
        self.status = self._control.report(self._job, self._events, progress)
        self._events = []
        self._sent = now

    def _is_due(self, age: float) -> bool:
        if len(self._events) >= FLUSH_AT or age >= ALIVE_EVERY:
            return True
        return bool(self._events) and age >= FLUSH_EVERY

    def _add(self, key: str, kind: str, text: str, level: str, data: dict[str, Any]) -> None:
        self._events.append(
            {
                "key": key,
                "type": kind,
                "level": level,
                "message": text,
                "data": data,
                "created_at": time.time(),
            }
        )
