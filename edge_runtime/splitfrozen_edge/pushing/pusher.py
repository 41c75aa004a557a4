"""Rows into one dataset, each exactly once. What is opened for that stays open between calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

from splitfrozen.errors import DataError, QuantizeError
from splitfrozen_edge.data.complaints import Complaints
from splitfrozen_edge.data.examples import Tally
from splitfrozen_edge.data.labels import resolve_labels, sort_names
from splitfrozen_edge.data.rows import Source, read_rows, survey
from splitfrozen_edge.data.stream import PLACE, Given, check_rows, shape_of
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.http.uplink import remember_uplink
from splitfrozen_edge.model.bundles import BundleStore
from splitfrozen_edge.progress import Silent, show_progress
from splitfrozen_edge.progress_checking import Checking, told
from splitfrozen_edge.pushing.collect import Example, NotFiniteError
from splitfrozen_edge.pushing.gate import Gate
from splitfrozen_edge.pushing.naming import FileLabels, StreamLabels
from splitfrozen_edge.pushing.options import PushOptions
from splitfrozen_edge.pushing.report import PushReport
from splitfrozen_edge.pushing.target import place_labels
from splitfrozen_edge.pushing.upload import Uploaded
from splitfrozen_edge.pushing.workbench import OnBadRow, OpenSession, Workbench, ignore
from splitfrozen_edge.state import StateDirectory

__all__ = ["PushOptions", "Pusher", "open_pusher", "push_rows"]

LINGER = 5.0  # seconds; how long a shard of slow rows waits for more


class Pusher(Workbench):
    """For the holder of the state directory's lock; see `open_pusher`."""

    def push_rows(
        self,
        rows: Iterable[Given],
        *,
        occurrence: Callable[[bytes], int] | None = None,
        on_bad_row: OnBadRow | None = None,
    ) -> PushReport:
        """Compute and send rows as they come; the iterable is taken in this thread, lazily.

        `occurrence`: example id of a row's first occurrence -> how many equal rows came before
        it; None: counted within this call. A bad row goes to `on_bad_row`; without it DataError
        is raised, when everything before that row is sent. Raises RefusedError (what is collected
        stays queued), StateError, ManifestError, QuantizeError `not_finite` as DataError.
        """
        return self._run_rows(rows, occurrence, on_bad_row, client=self._client)

    def collect(
        self,
        rows: Iterable[Given],
        *,
        occurrence: Callable[[bytes], int] | None = None,
        on_bad_row: OnBadRow | None = None,
    ) -> PushReport:
        """As `push_rows`, into the outbox only: when it returns, all rows are durable there."""
        return self._run_rows(rows, occurrence, on_bad_row, client=None)

    def push_file(self, path: Path) -> PushReport:
        """Check every row of a file, then compute and send what the server lacks."""
        started, sent_before = time.monotonic(), self._client.bytes_up
        options = self.options
        task = self.aim.task()
        checking = Checking(path.name, quiet=options.quiet)
        with checking:
            checked = survey(Source(path, task, options.fields), checking.row)
        source = Source(path, checked.shape.task, options.fields)
        target = self.aim.settle(checked.shape.task)
        if checked.shape.ignored:
            self._warn(
                f"the column {checked.shape.ignored!r} is ignored: dataset {target.name} is of "
                f"task {checked.shape.task}, which learns the text"
            )
        names = FileLabels(
            resolve_labels(
                checked.labels,
                known=target.labels,
                is_open=target.open_labels,
                given=options.labels,
                path=str(path),
            )
        )
        with checking.of(checked.rows):
            tally, used = self._check(source, names, checking.row)
        if tally.truncated:
            limit = target.bundle.manifest.preprocess.max_length
            self._warn(f"{tally.truncated} rows have more than {limit} tokens and are truncated")
        if tally.examples:
            self.aim.require_open()
        given = options.labels if used and target.open_labels else ()
        wanted = list(dict.fromkeys([*given, *sort_names(list(used))]))
        places = place_labels(self._client, target, wanted)
        # What is appended meanwhile was not checked: it is for the next push.
        again = islice(read_rows(source), checked.rows)
        examples: Iterable[Example] = ()
        if tally.examples:
            examples = self._examples(again, names, str(path), Tally(), _changed, None)
        _, waiting = self._outbox.queued(target.header.dataset)
        with show_progress(
            to_compute=tally.examples, to_upload=tally.examples + waiting, quiet=options.quiet
        ) as progress:
            pipeline = self._pipeline(examples, places, self._client, progress)
            totals = pipeline.run()
        report = self._report(tally, totals, started, sent_before)
        _raise_rejected(pipeline.rejected, None)
        return report

    def flush(self) -> PushReport:
        """Send what waits for the dataset; computes nothing."""
        started, sent_before = time.monotonic(), self._client.bytes_up
        self.aim.find()
        totals = self._pipeline((), {}, self._client, Silent()).run()
        return self._report(Tally(), totals, started, sent_before)

    def _check(
        self, source: Source, names: FileLabels, each: Callable[[], object]
    ) -> tuple[Tally, set[str]]:
        """Encode every row and keep nothing but counts and labels; DataError with all complaints.

        Encoding twice costs little beside computing; keeping the ids would cost memory per row.
        """
        complaints, tally, used = Complaints(), Tally(), set[str]()
        path = str(source.path)
        rows = told(read_rows(source), each)
        for example in self._examples(rows, names, path, tally, complaints.add, None):
            if example.label is not None:
                used.add(example.label)
        complaints.raise_any()
        return tally, used

    def _run_rows(
        self,
        rows: Iterable[Given],
        occurrence: Callable[[bytes], int] | None,
        on_bad_row: OnBadRow | None,
        client: Client | None,
    ) -> PushReport:
        started, sent_before = time.monotonic(), self._client.bytes_up
        options, taken = self.options, iter(rows)
        first = list(islice(taken, 1))
        if not first:
            return self.flush() if client else self._report(Tally(), Uploaded(), started, 0)
        shape = shape_of(first[0], self.aim.task(), options.fields)
        target = self.aim.settle(shape.task)
        self.aim.require_open()
        labels = StreamLabels(
            target, options.labels, lambda names: place_labels(self._client, target, names)
        )
        bad, tally = on_bad_row or _raise, Tally()

        def unusable(error: DataError) -> None:
            tally.rows += 1
            tally.refused += 1
            bad(error)

        checked = check_rows(
            chain(first, taken),
            shape,
            is_guessed=options.task is None and options.fields is None,
            on_bad_row=unusable,
        )
        examples = self._examples(checked, labels, PLACE, tally, bad, occurrence)
        pipeline = self._pipeline(examples, labels.places, client, Silent(), linger=LINGER)
        totals = pipeline.run()
        if tally.truncated:
            limit = target.bundle.manifest.preprocess.max_length
            self._warn(f"{tally.truncated} rows have more than {limit} tokens and were truncated")
        _raise_rejected(pipeline.rejected, on_bad_row)
        return self._report(tally, totals, started, sent_before)


@contextmanager
def open_pusher(
    options: PushOptions,
    state: StateDirectory,
    client: Client,
    *,
    stop: threading.Event | None = None,
    warn: Callable[[str], None] = ignore,
    gate: Gate | None = None,
    open_session: OpenSession | None = None,
) -> Iterator[Pusher]:
    """Hold the state directory and its outbox for pushes to one dataset.

    `stop` ends a push early; `gate` may hold it. StateError if another process holds the directory.
    """
    with state.locked():
        outbox = state.outbox()
        try:
            if outbox.notice:
                warn(outbox.notice)
            yield Pusher(
                options,
                outbox,
                state.key(),
                BundleStore(state, outbox, client),
                client,
                home=state.path,
                stop=stop,
                warn=warn,
                gate=gate,
                open_session=open_session,
            )
        finally:
            outbox.close()
            remember_uplink(state.path, client.sent_bytes, client.sent_seconds)


def push_rows(
    rows: Iterable[Given],
    options: PushOptions,
    state: StateDirectory,
    client: Client,
    *,
    occurrence: Callable[[bytes], int] | None = None,
    on_bad_row: OnBadRow | None = None,
    stop: threading.Event | None = None,
    warn: Callable[[str], None] = ignore,
    gate: Gate | None = None,
    open_session: OpenSession | None = None,
) -> PushReport:
    """Bring rows into a dataset, each exactly once; see `Pusher.push_rows` and `open_pusher`."""
    with open_pusher(
        options, state, client, stop=stop, warn=warn, gate=gate, open_session=open_session
    ) as pusher:
        return pusher.push_rows(rows, occurrence=occurrence, on_bad_row=on_bad_row)


def _raise(error: DataError) -> None:
    raise error


def _changed(error: DataError) -> None:
    raise DataError(f"{error.message} (the file changed while it was read; push it again)")


def _raise_rejected(rejected: Sequence[NotFiniteError], on_bad_row: OnBadRow | None) -> None:
    """Rows whose activations are not finite: reported one by one, or as one error at the end."""
    if not rejected:
        return
    if on_bad_row is not None:
        for error in rejected:
            on_bad_row(DataError(f"{error.reason}; it is not sent", path=PLACE, line=error.line))
        return
    raise QuantizeError(
        "not_finite",
        f"{len(rejected)} rows cannot be sent, all others are: {rejected[0].message}. "
        "Remove such rows or use a bundle of another precision",
    )
