"""What a dataset's pushes work with: target, tokenizer, session, outbox, client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from splitfrozen.bundle import Bundle
from splitfrozen.errors import DataError
from splitfrozen_edge.allocator import give_back
from splitfrozen_edge.data.examples import LabelNames, Preparer, Tally
from splitfrozen_edge.data.occurrences import Occurrences
from splitfrozen_edge.data.rows import Row
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.model.bundles import BundleStore
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_edge.outbox.age import old_shards
from splitfrozen_edge.outbox.store import Outbox
from splitfrozen_edge.progress import Progress
from splitfrozen_edge.pushing.aiming import Aim
from splitfrozen_edge.pushing.collect import Example
from splitfrozen_edge.pushing.gate import Gate, OpenGate
from splitfrozen_edge.pushing.options import PushOptions
from splitfrozen_edge.pushing.pipeline import Pipeline
from splitfrozen_edge.pushing.report import PushReport, summarize
from splitfrozen_edge.pushing.upload import Uploaded

OpenSession = Callable[[Bundle, str], DeviceSession]
OnBadRow = Callable[[DataError], None]


def ignore(message: str) -> None:
    """Warn nobody."""


class Workbench:
    """Stays open between pushes to one dataset; used by one thread at a time."""

    def __init__(
        self,
        options: PushOptions,
        outbox: Outbox,
        key: bytes,
        bundles: BundleStore,
        client: Client,
        *,
        home: Path,
        stop: threading.Event | None = None,
        warn: Callable[[str], None] = ignore,
        gate: Gate | None = None,
        open_session: OpenSession | None = None,
    ) -> None:
        """`home`: the state directory; `open_session`: bundle and codec -> session."""
        self.options = options
        self.aim = Aim(options, outbox, bundles, client)
        self._outbox = outbox
        self._key = key
        self._client = client
        self._home = home
        self._stop = stop or threading.Event()
        self._warn = warn
        self._gate = gate or OpenGate()
        self._open = open_session or self._open_measured
        self._session: tuple[str, DeviceSession] | None = None  # id of its bundle

    def remember_dataset(self, dataset: Mapping[str, Any] | None) -> None:
        """Take the server's description of the dataset as it is: rows can be collected offline.

        It has id, name, base_model, cut, task, labels, open_labels and sealed; a bundle was used
        for it before. None: ask the server at each call, as without this.
        """
        self.aim.given = dataset

    def warn_of_old(self, age: float) -> None:
        """Tell how much waits, in any dataset, for longer than `age` seconds; drops nothing."""
        if found := old_shards(self._outbox.entries(), age, time.time()):
            self._warn(found)

    def release(self) -> None:
        """Let go of the loaded model; the next row loads it again."""
        self._session = None

    def _examples(
        self,
        rows: Iterable[Row],
        labels: LabelNames,
        path: str,
        tally: Tally,
        on_bad_row: OnBadRow,
        occurrence: Callable[[bytes], int] | None,
    ) -> Iterator[Example]:
        header = self.aim.target.header
        manifest = self.aim.target.bundle.manifest
        preparer = Preparer(
            self.aim.preprocessor(),
            header,
            self._key,
            manifest.preprocess.max_length,
            self.options.strict,
        )
        counted = Occurrences()

        def is_known(example: bytes) -> bool:
            if self._outbox.is_known(header.dataset, example, bundle=header.bundle):
                return True
            # Who counts by himself may give two rows one id before the first is in the outbox.
            return occurrence is not None and counted(example) > 0

        try:
            yield from preparer.prepare(
                rows,
                labels,
                path=path,
                is_known=is_known,
                occurrence=occurrence or counted,
                on_bad_row=on_bad_row,
                tally=tally,
            )
        finally:
            counted.close()

    def _pipeline(
        self,
        examples: Iterable[Example],
        places: dict[str, int],
        client: Client | None,
        progress: Progress,
        *,
        linger: float | None = None,
    ) -> Pipeline:
        return Pipeline(
            examples=examples,
            header=self.aim.target.header,
            places=places,
            open_session=self._loaded,
            outbox=self._outbox,
            client=client,
            progress=progress,
            stop=self._stop,
            outbox_bytes=self.options.outbox_bytes,
            gate=self._gate,
            linger=linger,
        )

    def _loaded(self) -> DeviceSession:
        target = self.aim.target
        if self._session is None or self._session[0] != target.bundle.id:
            self._session = (target.bundle.id, self._open(target.bundle, target.header.codec))
        return self._session[1]

    def _open_measured(self, bundle: Bundle, wire: str) -> DeviceSession:
        from splitfrozen_edge.model.opening import open_session

        threads, memory = self.options.threads, self.options.memory
        return open_session(
            bundle, self._home, threads=threads, memory=memory, wire=wire, stop=self._stop
        )

    def _report(
        self, tally: Tally, totals: Uploaded, started: float, sent_before: int
    ) -> PushReport:
        give_back()  # what batches and bodies took; the next push may be an hour away
        target = self.aim.described()
        waiting = self._outbox.entries(target.header.dataset) if target else []
        parked = [shard for shard in waiting if shard.state == "refused"]
        report = summarize(target, tally, totals, parked)
        seconds = time.monotonic() - started
        return replace(report, bytes_up=self._client.bytes_up - sent_before, wall_seconds=seconds)
