"""`push`: check a data file, compute what the server lacks, send it. Continues where it stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from splitfrozen.errors import RefusedError
from splitfrozen.graph import TOKENIZER
from splitfrozen_edge.data.examples import Prepared, Preparer
from splitfrozen_edge.data.labels import resolve_labels, sort_names
from splitfrozen_edge.data.preprocess import Preprocessor
from splitfrozen_edge.data.rows import Source, Survey, survey
from splitfrozen_edge.data.tokenizer import Tokenizer
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.model.bundles import BundleStore
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_edge.outbox.store import Outbox
from splitfrozen_edge.progress import show_progress
from splitfrozen_edge.pushing.pipeline import Pipeline
from splitfrozen_edge.pushing.report import PushReport
from splitfrozen_edge.pushing.target import (
    Target,
    agree_on_task,
    aim,
    choose_bundle,
    place_labels,
    require_published,
)
from splitfrozen_edge.pushing.upload import Uploaded
from splitfrozen_edge.state import StateDirectory


@dataclass(frozen=True)
class PushRequest:
    """What the user asked for."""

    data: Path
    dataset: str  # name or id; made (open) if it does not exist
    bundle: str | None = None  # directory or id; None: as the dataset needs
    task: str | None = None  # classification | causal_lm; None: the dataset's, or told by columns
    fields: Mapping[str, str] | None = None  # our field -> column
    labels: tuple[str, ...] = ()  # names of the labels 0, 1, …
    wire: str | None = None  # codec; None: the bundle's default
    strict: bool = False  # refuse rows that would be truncated
    threads: int | None = None  # of the runtime; None: see session.default_threads
    quiet: bool = False  # no progress bars


def push_file(
    request: PushRequest,
    state: StateDirectory,
    client: Client,
    *,
    stop: threading.Event | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> PushReport:
    """Bring every row of a file into a dataset exactly once.

    `stop` ends it early. Raises DataError (nothing was computed), RefusedError (what was collected
    stays queued; the same call continues), StateError, ManifestError, QuantizeError.
    """
    started, sent_before = time.monotonic(), client.bytes_up
    with state.locked():
        outbox = state.outbox()
        try:
            job = _Push(request, client, outbox, state.key(), stop or threading.Event())
            checked, target = job.aim(BundleStore(state, outbox, client))
            prepared = job.prepare(checked, target)
            _warn_truncated(prepared, target, warn)
            totals = job.send(prepared, target)
        finally:
            outbox.close()
    report = _report(target, checked, prepared, totals)
    seconds = time.monotonic() - started
    return replace(report, bytes_up=client.bytes_up - sent_before, wall_seconds=seconds)


@dataclass
class _Push:
    request: PushRequest
    client: Client
    outbox: Outbox
    key: bytes
    stop: threading.Event
    dataset: Mapping[str, Any] = field(default_factory=dict)  # the server's, once aimed

    def aim(self, bundles: BundleStore) -> tuple[Survey, Target]:
        """Check the file's rows, then settle dataset and bundle; makes the dataset if need be."""
        request = self.request
        dataset = self.client.dataset(request.dataset)
        task = agree_on_task(dataset, request.task)
        checked = survey(Source(request.data, task, request.fields))
        bundle = choose_bundle(request.bundle, dataset, bundles, self.outbox)
        task = checked.shape.task
        if dataset is None:
            dataset = self.client.create_dataset(request.dataset, bundle=bundle.id, task=task)
        self.dataset = dataset
        target = aim(dataset, bundle, task=task, wire=request.wire)
        return checked, target

    def prepare(self, checked: Survey, target: Target) -> Prepared:
        """Encode every row that is not in the outbox yet."""
        request, manifest = self.request, target.bundle.manifest
        names = resolve_labels(
            checked.labels,
            known=target.labels,
            is_open=target.open_labels,
            given=request.labels,
            path=str(request.data),
        )
        tokenizer = Tokenizer.from_file(target.bundle.path(TOKENIZER))
        task = target.header.task
        rules = manifest.preprocess
        preparer = Preparer(
            Preprocessor(rules, tokenizer, task=task, vocab_size=manifest.vocab_size),
            target.header,
            self.key,
            rules.max_length,
            request.strict,
        )
        known = self.outbox.known_examples(target.header.dataset)
        source = Source(request.data, task, request.fields)
        return preparer.prepare(source, names=names, known=known)

    def send(self, prepared: Prepared, target: Target) -> Uploaded:
        """Compute and upload, overlapped; left-overs of earlier pushes first."""
        if prepared.examples and target.sealed:
            raise RefusedError("dataset_sealed", f"dataset {target.name} takes no more examples")
        if prepared.examples:
            require_published(self.client, self.dataset, target.bundle)
            bundle = target.bundle.id
            self.outbox.remember_dataset(target.header.dataset, target.name, bundle)
        places = place_labels(self.client, target, self._needed_labels(prepared, target))
        _, waiting = self.outbox.queued(target.header.dataset)
        with show_progress(
            to_compute=len(prepared.examples),
            to_upload=len(prepared.examples) + waiting,
            quiet=self.request.quiet,
        ) as progress:
            pipeline = Pipeline(
                examples=prepared.examples,
                header=target.header,
                places=places,
                open_session=lambda: DeviceSession(
                    target.bundle, threads=self.request.threads, wire=target.header.codec
                ),
                outbox=self.outbox,
                client=self.client,
                progress=progress,
                stop=self.stop,
            )
            return pipeline.run()

    def _needed_labels(self, prepared: Prepared, target: Target) -> list[str]:
        """Names that the dataset must have. `--labels` also fixes the order in an open one."""
        names = [example.label for example in prepared.examples if example.label is not None]
        given = self.request.labels if names and target.open_labels else ()
        return list(dict.fromkeys([*given, *sort_names(names)]))


def _warn_truncated(prepared: Prepared, target: Target, warn: Callable[[str], None]) -> None:
    if prepared.truncated:
        limit = target.bundle.manifest.preprocess.max_length
        warn(f"{prepared.truncated} rows have more than {limit} tokens and are truncated")


def _report(
    target: Target,
    checked: Survey,
    prepared: Prepared,
    totals: Uploaded,
) -> PushReport:
    return PushReport(
        dataset=target.name,
        dataset_id=target.header.dataset,
        bundle=target.bundle.id,
        task=target.header.task,
        codec=target.header.codec,
        rows=checked.rows,
        skipped=prepared.skipped,
        examples=len(prepared.examples),
        truncated=prepared.truncated,
        tokens=prepared.tokens,
        uploaded_examples=totals.examples,
        uploaded_shards=totals.shards,
        duplicates=totals.duplicates,
        bytes_body=totals.bytes_body,
        cpu_seconds=time.process_time(),
    )
