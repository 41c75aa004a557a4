"""tokenize -> run -> outbox -> upload, overlapped, with bounded queues between the stages.

The caller's thread takes the examples (which tokenizes the rows); computing, collecting and
uploading have a thread each. The network never waits for the processor, nor the processor for the
network or the disk, and nothing grows with the number of rows. When the server is unreachable,
computing goes on into the outbox until that is full; what was collected is sent by the same
command later.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from splitfrozen_edge.http.client import Client
from splitfrozen_edge.model.batches import WINDOW
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_edge.outbox.room import OUTBOX_BYTES
from splitfrozen_edge.outbox.store import NewShard, Outbox
from splitfrozen_edge.progress import Progress
from splitfrozen_edge.pushing.collect import (
    Example,
    NotFiniteError,
    Piece,
    ShardBuilder,
    ShardHeader,
)
from splitfrozen_edge.pushing.computing import Computing
from splitfrozen_edge.pushing.gate import Gate, OpenGate
from splitfrozen_edge.pushing.stopping import TICK, Stop, Stopped
from splitfrozen_edge.pushing.upload import SetAsideError, Uploaded, park_all, seal_shard
from splitfrozen_edge.pushing.uploading import Uploading

__all__ = ["OUTBOX_BYTES", "Pipeline", "Stopped"]

_QUEUED_BATCHES = 4
_QUEUED_EXAMPLES = WINDOW  # a window computes while the next one is tokenized


@dataclass
class Pipeline:
    """One push's stages and what they share."""

    examples: Iterable[Example]  # taken in the caller's thread, lazily; may be endless
    header: ShardHeader
    places: Mapping[str, int]  # label name -> index in the dataset's list; may grow meanwhile
    open_session: Callable[[], DeviceSession]  # called in the computing stage, if needed at all
    outbox: Outbox
    client: Client | None  # None: collect only, send nothing
    progress: Progress
    stop: threading.Event  # also ends the client's waiting; set while a failed stage ends the rest
    outbox_bytes: int = OUTBOX_BYTES
    gate: Gate = field(default_factory=OpenGate)
    linger: float | None = None  # seconds a shard waits for more rows; None: until it is full

    def __post_init__(self) -> None:
        stop = Stop(self.stop)
        self._stop = stop
        self._examples: queue.Queue[Example | None] = queue.Queue(_QUEUED_EXAMPLES)
        self._batches: queue.Queue[list[Piece] | None] = queue.Queue(_QUEUED_BATCHES)
        self._error: BaseException | None = None
        self._source_error: BaseException | None = None  # of the rows, not of a stage
        self._stopped_here = False  # by a stage that failed, not by the caller
        self._computing = Computing(
            header=self.header,
            open_session=self.open_session,
            gate=self.gate,
            stop=stop,
            slow=self.linger is not None,
        )
        self._collected = threading.Event()
        self._uploading: Uploading | None = None
        if self.client is not None:
            self._uploading = Uploading(
                dataset=self.header.dataset,
                outbox=self.outbox,
                client=self.client,
                progress=self.progress,
                gate=self.gate,
                stop=stop,
            )
            self._collected = self._uploading.collected

    @property
    def rejected(self) -> Sequence[NotFiniteError]:
        """Rows whose activations are not finite; they stop nothing."""
        return self._computing.rejected

    def run(self) -> Uploaded:
        """Run all stages to the end; raises the error that stopped them, or Stopped.

        An error of the examples themselves is raised when all that came before it are sent.
        """
        stages = [self._compute, self._collect]
        stages += [self._uploading.run] if self._uploading else []
        threads = [threading.Thread(target=self._guard, args=(s,), daemon=True) for s in stages]
        for thread in threads:
            thread.start()
        try:
            self._take_guarded()
            for thread in threads:
                thread.join()
        except BaseException:
            self.stop.set()
            for thread in threads[:2]:  # the upload may hang in the network; it is safe to leave
                thread.join()
            raise
        if self._stopped_here:
            self.stop.clear()  # it woke the other stages; the caller's next push starts anew
        if isinstance(self._error, SetAsideError):
            # What was collected between the refusal and the end of all stages.
            refused = self._error
            park_all(self.outbox, refused.dataset, refused.cause, refused.bundle)
        for error in (self._error, self._source_error):
            if error is not None:
                raise error
        return self._uploading.totals if self._uploading else Uploaded()

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        # The first error stopped the others; a Stopped is nobody's error.
        if self._error is None or isinstance(self._error, Stopped):
            self._error = error
        self._stopped_here = self._stopped_here or not self.stop.is_set()
        self.stop.set()

    def _take_guarded(self) -> None:
        """In the caller's thread: a KeyboardInterrupt passes through."""
        try:
            self._take()
        except Exception as error:
            self._fail(error)

    def _take(self) -> None:
        examples = iter(self.examples)
        while True:
            self._stop.check()
            try:
                example = next(examples)
            except StopIteration:
                break
            except Stopped:
                raise
            except Exception as error:
                self._source_error = error
                break
            self._stop.put(self._examples, example)
        self._stop.put(self._examples, None)

    def _compute(self) -> None:
        for pieces in self._computing.batches(self._examples):
            self._stop.put(self._batches, pieces)
            self.progress.computed(len(pieces))
        self._stop.put(self._batches, None)

    def _collect(self) -> None:
        builder = ShardBuilder(self.header, self.places)
        since: float | None = None  # the oldest piece of the builder came
        ended = False
        while not ended:
            self._stop.check()
            try:
                pieces = self._batches.get(timeout=TICK)
            except queue.Empty:
                pieces = []
            ended = pieces is None
            for piece in pieces or ():
                for shard in builder.add(piece):
                    self._store(seal_shard(shard))
                    since = None
                since = since or time.monotonic()
            old = self.linger is not None and since and time.monotonic() - since > self.linger
            if ended or old:
                for shard in builder.flush():
                    self._store(seal_shard(shard))
                since = None
        self._collected.set()
        self._tell_upload()

    def _store(self, shard: NewShard) -> None:
        """Queue a shard as soon as the outbox has room for it."""
        while self._is_full(len(shard.body)):
            self._block(full=True)
            self._stop.wait(TICK)
        self._block(full=False)
        self.outbox.put(self.header.dataset, shard)
        self._tell_upload()

    def _is_full(self, size: int) -> bool:
        """One shard is always let in, whatever other datasets left behind: it can be sent."""
        shards, _ = self.outbox.queued(self.header.dataset)
        return shards > 0 and not self.outbox.has_room(size, self.outbox_bytes)

    def _block(self, *, full: bool) -> None:
        if self._uploading is not None:
            (self._uploading.blocked.set if full else self._uploading.blocked.clear)()

    def _tell_upload(self) -> None:
        if self._uploading is not None:
            self._uploading.queued.set()
