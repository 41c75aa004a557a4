"""run -> outbox -> upload, overlapped: three threads, bounded queues between them.

The network never waits for the processor, nor the processor for the network or the disk. When the
server is unreachable, computing goes on into the outbox until that is full; what was collected is
sent by the same command later.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from splitfrozen.errors import RefusedError
from splitfrozen_edge.batches import plan_batches
from splitfrozen_edge.client import Client
from splitfrozen_edge.collect import Example, Piece, ShardBuilder, ShardHeader, pad, strip
from splitfrozen_edge.outbox import Entry, NewShard, Outbox
from splitfrozen_edge.progress import Progress
from splitfrozen_edge.session import DeviceSession
from splitfrozen_edge.upload import Uploaded, seal_shard, upload_one

OUTBOX_BYTES = 512 * 1024 * 1024  # of bodies that wait; computing pauses above
_QUEUED_BATCHES = 4
_TICK = 0.1  # seconds; how soon a waiting stage notices that another one stopped


class Stopped(Exception):
    """Another stage failed or the user interrupted; not an error of its own."""


@dataclass
class Pipeline:
    """One push's stages and what they share."""

    examples: Sequence[Example]
    header: ShardHeader
    places: Mapping[str, int]  # label name -> index in the dataset's list
    pad_id: int
    open_session: Callable[[], DeviceSession]  # called in the computing stage, if needed at all
    outbox: Outbox
    client: Client
    progress: Progress
    stop: threading.Event  # also ends the client's waiting
    outbox_bytes: int = OUTBOX_BYTES
    uploaded: Uploaded = field(default_factory=Uploaded)

    def __post_init__(self) -> None:
        self._batches: queue.Queue[list[Piece] | None] = queue.Queue(_QUEUED_BATCHES)
        self._queued = threading.Event()  # there may be something new in the outbox
        self._collected = threading.Event()  # nothing new will come
        self._blocked = threading.Event()  # the outbox is full
        self._error: BaseException | None = None

    def run(self) -> Uploaded:
        """Run all stages to the end; raises the error that stopped them, or Stopped."""
        stages = (self._compute, self._collect, self._upload)
        threads = [threading.Thread(target=self._guard, args=(s,), daemon=True) for s in stages]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self.stop.set()
            for thread in threads[:2]:  # the upload may hang in the network; it is safe to leave
                thread.join()
            raise
        if self._error is not None:
            raise self._error
        return self.uploaded

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as error:
            # The first error stopped the others; a Stopped is nobody's error.
            if self._error is None or isinstance(self._error, Stopped):
                self._error = error
            self.stop.set()

    def _compute(self) -> None:
        if self.examples:
            session = self.open_session()
            for places in plan_batches([len(example.encoded.ids) for example in self.examples]):
                batch = [self.examples[place] for place in places]
                outputs = session.run(*pad(batch, self.pad_id))
                self._hand_over(strip(batch, outputs, self.header))
                self.progress.computed(len(batch))
        self._hand_over(None)

    def _hand_over(self, item: list[Piece] | None) -> None:
        while True:
            self._check_stop()
            try:
                return self._batches.put(item, timeout=_TICK)
            except queue.Full:
                continue

    def _collect(self) -> None:
        builder = ShardBuilder(self.header, self.places)
        while (pieces := self._take()) is not None:
            for piece in pieces:
                for shard in builder.add(piece):
                    self._store(seal_shard(shard))
        for shard in builder.flush():
            self._store(seal_shard(shard))
        self._collected.set()
        self._queued.set()

    def _take(self) -> list[Piece] | None:
        while True:
            self._check_stop()
            try:
                return self._batches.get(timeout=_TICK)
            except queue.Empty:
                continue

    def _store(self, shard: NewShard) -> None:
        """Queue a shard as soon as the outbox has room for it."""
        while self._is_full(len(shard.body)):
            self._blocked.set()
            self._check_stop()
            self.stop.wait(_TICK)
        self._blocked.clear()
        self.outbox.put(self.header.dataset, shard)
        self._queued.set()

    def _is_full(self, size: int) -> bool:
        """One shard is always let in, whatever other datasets left behind: it can be sent."""
        shards, _ = self.outbox.queued(self.header.dataset)
        return shards > 0 and self.outbox.queued_bytes() + size > self.outbox_bytes

    def _upload(self) -> None:
        while True:
            self._check_stop()
            self._queued.clear()
            entry = self.outbox.next(self.header.dataset)
            if entry is not None:
                self._send(entry)
            elif self._collected.is_set():
                return
            else:
                self._queued.wait(_TICK)

    def _send(self, entry: Entry) -> None:
        try:
            settled = upload_one(self.client, self.outbox, entry, self.uploaded)
        except RefusedError as error:
            # Offline: go on computing as long as there is anything to compute or room for it.
            if not error.retryable or self._collected.is_set() or self._blocked.is_set():
                raise
        else:
            self.progress.uploaded(settled)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise Stopped
