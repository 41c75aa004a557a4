"""One leased job, from wherever it stands to wherever it can get.

The loop replays the admission log, then extends it: plan a pass, train its steps, evaluate,
checkpoint, look for new shards. Everything that shapes the adapter is a function of the job's
configuration, its start record and the log, so a killed job ends with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from splitfrozen.errors import DataError
from splitfrozen_server.worker import progress as saved
from splitfrozen_server.worker import result
from splitfrozen_server.worker.batch import training_batch
from splitfrozen_server.worker.control_client import ControlClient
from splitfrozen_server.worker.data import HeldOut, TrainingRows, fetch
from splitfrozen_server.worker.evaluate import evaluate
from splitfrozen_server.worker.job import Arrivals, LeasedJob
from splitfrozen_server.worker.model import (
    AdaptedModel,
    build,
    check_prefix,
    find_source,
)
from splitfrozen_server.worker.report import Reporter
from splitfrozen_server.worker.schedule import Boundary, PlannedStep, Schedule
from splitfrozen_server.worker.settings import learning_rate_at, parse_settings
from splitfrozen_server.worker.start import freeze_start, held_out_dataset, open_dataset
from splitfrozen_server.worker.trainer import TrainState, step
from splitfrozen_server.worker.turns import Turns
from splitfrozen_server.worker.workspace import Workspace

POLL = 0.5  # seconds between two looks for new shards


class StoppedError(Exception):
    """The job was paused or cancelled, or is left idle after shard `idle_sequence`."""

    def __init__(self, *, idle_sequence: int | None = None) -> None:
        super().__init__("stopped")
        self.idle_sequence = idle_sequence


class JobRun:
    """The state of one job in this process."""

    def __init__(
        self, job: LeasedJob, control: ControlClient, workspace: Workspace, turns: Turns
    ) -> None:
        self.job = job
        self.control = control
        self.turns = turns
        self.directory = workspace.job(job.id)
        self.reporter = Reporter(control, job)
        self.settings = parse_settings(job.config, hidden_size=job.model.hidden_size)
        self.start = freeze_start(job, control)
        self.rows = TrainingRows(
            file=open_dataset(job, job.training.id, control, workspace),
            num_labels=len(self.start.labels) if job.task == "classification" else None,
            eval_fraction=self.settings.eval_fraction,
        )
        self.validation = held_out_dataset(job, self.start, control, workspace)
        self.schedule = Schedule(
            seed=self.settings.seed,
            epochs=self.settings.epochs,
            batch_size=self.settings.batch_size,
        )
        self.source = find_source(job.model)
        self.prefix_digest = check_prefix(self.source, job)
        self.adapted = self._build()
        self.state = TrainState(
            self.adapted.model, job.task, self.settings.seed, self.settings.optimizer
        )
        self.idle_step = -1  # where waiting was last reported
        self.progress = saved.restore(self.directory, self.adapted, self.state, job.admissions)

    def run(self) -> None:
        """Train to the end and hand over the adapter. StoppedError when it must stop before."""
        self._announce()
        try:
            for boundary in self._boundaries():
                self._train_pass(boundary)
        except StoppedError:
            self._save()
            raise
        finished = result.pack_result(self)
        self._tell(force=True)
        self.control.finish(self.job, finished)

    def _build(self) -> AdaptedModel:
        with self.turns.step():
            return build(
                self.source,
                self.job.cut,
                self.job.task,
                num_labels=self.rows.num_labels,
                lora=self.settings.lora,
                seed=self.settings.seed,
            )

    def _boundaries(self) -> Iterator[Boundary]:
        """The logged admissions, then new ones until every visit is planned."""
        for boundary in self.job.admissions:
            self._fetch_logged(boundary.sequence)
            yield boundary
        while not self.schedule.finished:
            yield self._next_boundary()

    def _train_pass(self, boundary: Boundary) -> None:
        lengths = self.rows.admit(boundary.sequence)
        self._warn_skipped(boundary)
        steps = self.schedule.begin_pass(lengths, sealed=boundary.sealed)
        end = boundary.step + len(steps)
        if self.state.steps > end:
            return  # a checkpoint lies behind this pass
        if boundary not in self.progress.admissions:
            self.progress.admissions.append(boundary)
        left = self.schedule.remaining_steps()
        self.reporter.total_steps = None if left is None else end + left
        if self.state.steps == 0 and not self.progress.evaluations:
            self._evaluate(0.0)
        for planned in steps[self.state.steps - boundary.step :]:
            self._train_step(planned)
        self._end_pass()

    def _train_step(self, planned: PlannedStep) -> None:
        began = time.perf_counter()
        rows = [self.rows.train[index] for index in planned.examples]
        batch = training_batch(self.rows.file, rows, self.job.task)
        rate = learning_rate_at(self.settings.optimizer, planned.progress)
        with self.turns.step():
            metrics = step(self.state, batch, rate)
        self.progress.trained_tokens += int(batch.mask.sum())
        self.progress.train_loss = metrics.loss
        self.reporter.step(metrics, epoch=planned.epoch, seconds=time.perf_counter() - began)
        if self.state.steps % self.settings.save_every == 0:
            self._save()
        self._tell(force=False)

    def _end_pass(self) -> None:
        epoch = float(self.schedule.visits.sum()) / self.schedule.examples
        done = self.schedule.finished and self.progress.evaluated_epoch < epoch
        if done or epoch - self.progress.evaluated_epoch >= 1:
            self._evaluate(epoch)
        self._save()
        self._tell(force=False)

    def _evaluate(self, epoch: float) -> None:
        held_out = self.validation or HeldOut(self.rows.file, self.rows.held_out)
        if not held_out.rows:
            return
        found = evaluate(
            self.adapted.model,
            held_out.batches(self.job.task),
            self.job.task,
            step=self.state.steps,
            epoch=epoch,
            turn=self.turns.step,
        )
        self.progress.evaluations.append(found)
        self.reporter.evaluation(found)

    def _next_boundary(self) -> Boundary:
        """Wait until there is something to train on, and log what is admitted for it."""
        while True:
            arrivals = self._arrivals()
            newest = self.rows.file.last_sequence
            pending = self.rows.pending(newest)
            if self.schedule.has_work(new_examples=pending, sealed=arrivals.sealed):
                boundary = Boundary(self.state.steps, newest, arrivals.sealed)
                self.control.admit(self.job, boundary)
                self.reporter.waiting = False
                return boundary
            if arrivals.sealed:
                raise DataError("the sealed dataset has no examples to train on")
            self._wait(newest, others=arrivals.others_waiting)

    def _fetch_logged(self, sequence: int) -> None:
        """Make sure that the training file holds what the log says was trained on."""
        if self.rows.file.last_sequence < sequence:
            self._arrivals()
        if self.rows.file.last_sequence < sequence:
            raise DataError(f"shard {sequence} was admitted but is no longer on the server")

    def _arrivals(self) -> Arrivals:
        file = self.rows.file
        found = self.control.arrivals(self.job, self.job.training.id, file.last_sequence)
        self._obey(found.status)
        fetch(file, found.shards)
        return found

    def _wait(self, newest: int, *, others: bool) -> None:
        self.reporter.waiting = True
        if self.idle_step != self.state.steps:
            self.idle_step = self.state.steps
            text = "All that may be trained before the seal is done: waiting for shards or the seal"
            self.reporter.message(f"idle:{self.idle_step}", text)
        self._tell(force=False)
        if others:
            raise StoppedError(idle_sequence=newest)
        time.sleep(POLL)

    def _save(self) -> None:
        # Events first: steps before a checkpoint are never made again, nor are their events.
        self._report(force=True)
        base = self.job.model
        name = saved.save(self.directory, self.adapted, self.state, self.progress, base)
        self.control.checkpoint(self.job, self.state.steps, name, self.progress.metrics())

    def _tell(self, *, force: bool) -> None:
        self._report(force=force)
        self._obey(self.reporter.status)

    def _report(self, *, force: bool) -> None:
        self.reporter.flush(
            self.state.steps, trained_tokens=self.progress.trained_tokens, force=force
        )

    def _obey(self, status: str) -> None:
        if status != "running":
            raise StoppedError()

    def _announce(self) -> None:
        if self.state.steps:
            text = f"Going on from the checkpoint of step {self.state.steps}"
            self.reporter.message(f"resumed:{self.job.lease}", text)

    def _warn_skipped(self, boundary: Boundary) -> None:
        if self.rows.skipped:
            text = (
                f"{self.rows.skipped} examples are left out: their labels came after the job "
                "froze its label list"
            )
            self.reporter.message(f"skipped:{boundary.step}", text, level="warn")
        if self.rows.targetless:
            text = f"{self.rows.targetless} examples are left out: they have no target to predict"
            self.reporter.message(f"targetless:{boundary.step}", text, level="warn")
