"""run -> outbox -> upload, overlapped: three threads, bounded queues between them.

The network never waits for the processor, nor the processor for the network or the disk. When the
server is unreachable, computing goes on into the outbox until that is full; what was collected is
sent by the same command later.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from splitfrozen.errors import QuantizeError, RefusedError
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.http.refusals import GaveUpError
from splitfrozen_edge.model.batches import plan_batches
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_edge.outbox.store import Entry, NewShard, Outbox
from splitfrozen_edge.progress import Progress
from splitfrozen_edge.pushing.collect import (
    Example,
    Outputs,
    Piece,
    ShardBuilder,
    ShardHeader,
    cut_piece,
    pad,
)
from splitfrozen_edge.pushing.upload import Uploaded, seal_shard, upload_one

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
        self._rejected: list[QuantizeError] = []  # one per row that cannot be sent
        self._failures = 0  # of the upload, one after the other

    def run(self) -> Uploaded:
        """Run all stages to the end; raises the error that stopped them, or Stopped.

        Rows whose activations are not finite stop nothing: QuantizeError comes at the end, when
        all others are sent.
        """
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
        if self._rejected:
            raise _summary(self._rejected)
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
                outputs = session.run(*pad(batch))
                self._hand_over(list(self._strip(batch, outputs)))
                self.progress.computed(len(batch))
        self._hand_over(None)

    def _strip(self, batch: Sequence[Example], outputs: Outputs) -> Iterator[Piece]:
        for row, example in enumerate(batch):
            try:
                yield cut_piece(row, example, outputs, self.header)
            except QuantizeError as error:
                if error.code != "not_finite":
                    raise
                self._rejected.append(error)

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
            # Read before the outbox: a shard that is queued between the two is not missed.
            done = self._collected.is_set()
            entry = self.outbox.next(self.header.dataset)
            if entry is not None:
                self._send(entry)
            elif done:
                return
            else:
                self._queued.wait(_TICK)

    def _send(self, entry: Entry) -> None:
        try:
            settled = upload_one(self.client, self.outbox, entry, self.uploaded)
        except RefusedError as error:
            if not error.retryable:
                raise explain_refusal(error, self.header.dataset) from error
            self._rest(error)
        else:
            self._failures = 0
            self.progress.uploaded(settled)

    def _rest(self, error: RefusedError) -> None:
        """Offline: leave the server alone while there is anything to compute and room for it."""
        if self._is_idle():
            raise error
        self._failures += 1
        asked = error.retry_after if isinstance(error, GaveUpError) else None
        now = time.monotonic()
        until = now + self.client.policy.delay(self._failures, asked)
        while time.monotonic() < until and not self._is_idle():
            self._check_stop()
            self.stop.wait(_TICK)
        if time.monotonic() < now + (asked or 0.0):
            raise error  # nothing left to do meanwhile, and the server wants no request yet

    def _is_idle(self) -> bool:
        return self._collected.is_set() or self._blocked.is_set()

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise Stopped


def explain_refusal(error: RefusedError, dataset: str) -> RefusedError:
    """The final refusal of a queued shard, with what the user can do about it."""
    advice = (
        "the shard stays queued: the same command sends it again once the cause is mended; to give "
        f"up what is queued: splitfrozen-edge queue drop --dataset {dataset}"
    )
    return RefusedError(
        error.code, f"{error.message}; {advice}", param=error.param, details=error.details
    )


def _summary(rejected: Sequence[QuantizeError]) -> QuantizeError:
    return QuantizeError(
        "not_finite",
        f"{len(rejected)} rows cannot be sent, all others are: {rejected[0].message}. "
        "Remove such rows or use a bundle of another precision",
    )
