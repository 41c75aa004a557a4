"""One joined dataset: new rows of its path go into the outbox. Errors end in words and a retry."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from splitfrozen.errors import RefusedError, SplitFrozenError
from splitfrozen_edge.allocator import give_back
from splitfrozen_edge.daemon.badlines import BadLines
from splitfrozen_edge.daemon.joined import Joined
from splitfrozen_edge.daemon.source import RowSink, RowSource
from splitfrozen_edge.outbox.salvage import is_damage
from splitfrozen_edge.state import StateError
from splitfrozen_edge.watching.batch import Batch
from splitfrozen_edge.watching.collector import Collector
from splitfrozen_edge.watching.files import LINES, TEXTS, WHOLE
from splitfrozen_edge.watching.ledger import Ledger

TURN = 60.0  # seconds of one dataset's rows before the others, and the settings, have theirs
RELEASE = 300.0  # seconds without rows until the model's memory is given back
_TELL = 60.0  # seconds between two words about rows that were taken
_AGAIN = (5.0, 600.0)  # seconds until a failed dataset is tried again: first, at most
SEALED, DELETED = "sealed", "deleted"
NO_ROOM = "no room in the outbox or on its disk; rows wait in their files"
_METERED = "asks the server, and fetches a bundle, when the network is not metered"


@dataclass
class Following:
    """How it stands with one dataset; read by other threads."""

    state: str = "starting"  # starting | following | waiting | sealed | deleted | failed
    message: str = ""
    id: str | None = None
    name: str | None = None
    waiting: int = 0  # rows that were read and wait for more, or for the policy
    queued: int = 0  # rows that went into the outbox since the start
    problems: Mapping[str, str] | None = None  # path -> why it is not read
    unread: Mapping[str, int] | None = None  # ending -> files that are left out for it


class Follower:
    """Steps are taken by one thread."""

    def __init__(
        self,
        joined: Joined,
        ledger: Ledger,
        find: Callable[[Joined], Mapping[str, Any]],
        open_sink: Callable[[Joined], RowSink],
        *,
        clock: Callable[[], float],
        bundle_of: Callable[[str], str | None],
        may_compute: Callable[[], bool],
        has_room: Callable[[], bool] = lambda: True,
        may_ask: Callable[[], bool] = lambda: True,
        is_taken: Callable[[str], bool] = lambda dataset: False,
        beat: Callable[[], object] = lambda: None,
        say: Callable[[str], object] = lambda message: None,
    ) -> None:
        """`find`: the dataset as the server has it, or had it; RefusedError if it is not there.

        `bundle_of`: the bundle that was used for a dataset id before: then no server is needed.
        `may_ask`: whether the network may be used. `is_taken`: whether another follower feeds a
        dataset id from the same path: two would count its rows twice.
        """
        self.joined = joined
        self.now = Following()
        self._ledger = ledger
        self._find = find
        self._open_sink = open_sink
        self._clock = clock
        self._bundle_of = bundle_of
        self._may_compute = may_compute
        self._has_room = has_room
        self._may_ask = may_ask
        self._is_taken = is_taken
        self._beat = beat
        self._say = say
        self._lock = threading.Lock()
        self._dataset: Mapping[str, Any] | None = None
        self._collector: Collector | None = None
        self._sink: RowSink | None = None
        self._held: Batch | None = None  # read, and the policy says wait
        self._retry_at = 0.0
        self._failures = 0
        self._was_away = False  # the last failure was a server that did not answer
        self._used_at = clock()
        self._read_again = threading.Event()
        self._untold, self._told_at = 0, -_TELL
        self._ask = False  # whether the sink has to ask the server which bundle is the right one

    def read_again(self) -> None:
        """The bundle was replaced: what the server refused is computed again with the new one.

        Called by another thread. What it has, or what waits with the new bundle, is skipped.
        """
        self._read_again.set()

    def learn(self, dataset: Mapping[str, Any]) -> None:
        """What a heartbeat said of this dataset; called by another thread."""
        with self._lock:
            if self.now.state == DELETED:
                if dataset.get("deleted"):
                    return  # known; it is looked for by its name
                self._retry_at = 0.0
            if self._was_away:  # it answers again: no need to wait any longer
                self._was_away, self._retry_at = False, 0.0
            self._dataset = dict(dataset)

    def step(self) -> bool:
        """Take what is new; whether anything was done."""
        if self._clock() < self._retry_at:
            return False
        try:
            if not self._is_open():
                return False
            try:
                return self._take_all()
            finally:
                self._tell_notes()
        except RefusedError as error:
            self._refused(error)
        except (SplitFrozenError, StateError, OSError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.Error) and is_damage(error):
                raise  # it is repaired at the next start
            self._fail(str(error))
        return False

    def rest(self) -> None:
        """Give the model's memory back if nothing came for a while."""
        if self._sink is not None and self._clock() - self._used_at > RELEASE:
            self._sink.release()
            self._sink = None
            give_back()

    def _is_open(self) -> bool:
        if self._dataset is None:
            if not self._may_ask():
                self._settle("waiting", _METERED)
                return False
            self._dataset = self._find(self.joined)
        dataset = self._dataset
        if dataset.get("deleted"):
            self._settle(DELETED, "the dataset is not on the server; nothing is computed for it")
            self._dataset, self._collector, self._held = None, None, None
            self.now.id = None  # from now on heartbeats ask by the name
            self._retry_at = self._clock() + _AGAIN[1]  # it may be made again under its name
            return False
        self.now.id, self.now.name = str(dataset["id"]), str(dataset["name"])
        if dataset.get("sealed"):
            self._settle(SEALED, "the dataset takes no more examples; nothing is computed for it")
            return False
        if self._read_again.is_set():
            self._read_again.clear()
            self._ledger.forget(self.now.id)
            self._collector, self._held, self._ask = None, None, True
        if self.now.state in (SEALED, DELETED):
            self._settle("following", "")
        if self._collector is None:
            if self._is_taken(self.now.id):
                raise StateError(f"{self.joined.path} is joined twice to this dataset: leave one")
            self._collector = self._open_collector(self.now.id)
        return True

    @property
    def is_held(self) -> bool:
        """Whether rows wait for the policy or the disk, not for more rows."""
        return self._held is not None

    @property
    def is_reading(self) -> bool:
        """Whether it keeps its place in files."""
        return self._collector is not None

    def _open_collector(self, dataset: str) -> Collector:
        kinds = LINES | WHOLE | (TEXTS if self.joined.options.texts else frozenset())
        return Collector(
            self._ledger,
            dataset,
            self.joined.path,
            clock=self._clock,
            patience=self.joined.options.max_wait,
            kinds=kinds,
        )

    def _take_all(self) -> bool:
        collector = self._collector
        assert collector is not None
        done, until = False, self._clock() + TURN
        bad = BadLines(collector.path_of, self._say)
        while self._clock() <= until and (batch := self._held or collector.poll()) is not None:
            self._held = batch
            self.now.waiting = len(batch.taken)
            if batch.taken and not self._has_room():
                self._settle("waiting", NO_ROOM)
                return done
            if batch.taken and not self._needs_no_server() and not self._may_ask():
                self._settle("waiting", _METERED)
                return done
            if batch.taken and not self._may_compute():
                return done
            self._held = None
            if batch.taken:
                self._feed(batch)
            batch.commit()
            bad.note(batch.changes)
            self._failures = 0
            done = True
        self._settle("following", "")
        self.now.waiting, self.now.problems = collector.waiting, dict(collector.problems)
        self.now.unread = dict(collector.unread)
        return done or collector.changed

    def _tell_notes(self) -> None:
        if self._collector is not None:
            notes, self._collector.notes = self._collector.notes, []
            for note in notes:
                self._say(note)

    def _feed(self, batch: Batch) -> None:
        if self._sink is None:
            self._sink = self._open_sink(self.joined)
        self._used_at = self._clock()
        self._sink.remember_dataset(self._dataset if self._needs_no_server() else None)
        source = RowSource(batch, self._task(), self.joined.options.fields or None, self._beat)
        self._sink.collect(source.rows(), occurrence=source.occurrence, on_bad_row=source.refuse)
        self._ask = False
        self._learn_new_labels(source.labels)
        give_back()
        self._used_at = self._clock()
        taken = sum(change.rows for change in batch.changes.values())
        self.now.queued += taken
        self._tell(taken)

    def _needs_no_server(self) -> bool:
        return self._bundle_of(self.now.id or "") is not None and not self._ask

    def _learn_new_labels(self, used: set[str]) -> None:
        """Names that were added on the way have places, which must be known when offline."""
        dataset = self._dataset or {}
        if dataset.get("open_labels") and not used <= set(dataset.get("labels") or ()):
            with suppress(RefusedError):
                self.learn(self._find(self.joined))

    def _tell(self, rows: int) -> None:
        self._untold += rows
        if self._untold and self._clock() - self._told_at >= _TELL:
            self._say(f"{self.joined.dataset}: {self._untold} rows taken")
            self._untold, self._told_at = 0, self._clock()

    def _task(self) -> str | None:
        assert self._dataset is not None
        return str(self._dataset["task"])

    def _refused(self, error: RefusedError) -> None:
        if error.code == "dataset_sealed" and self._dataset is not None:
            self.learn(dict(self._dataset) | {"sealed": True})
        elif error.code == "not_found" and self._dataset is not None:
            self.learn({"deleted": True})
        else:
            self._fail(f"{error.message} [{error.code}]")
            self._was_away = error.retryable
            return
        self._start_over()

    def _fail(self, message: str) -> None:
        """Say it once, try again later, each time later."""
        self._settle("failed", message)
        self._failures += 1
        first, longest = _AGAIN
        self._retry_at = self._clock() + min(longest, first * 2.0 ** min(self._failures - 1, 20))
        self._start_over()

    def _start_over(self) -> None:
        """What was read and not committed is read again."""
        self._held = None
        if self._collector is not None:
            self._collector.reset()

    def _settle(self, state: str, message: str) -> None:
        if (state, message) == (self.now.state, self.now.message):
            return
        if state != "following" or self.now.state != "starting":
            self._say(f"{self.joined.dataset}: {message or 'goes on'}")
        self.now.state, self.now.message = state, message
