"""The computing stage: examples -> batches of like length -> activations."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence

from splitfrozen_edge.model.batches import WINDOW, plan_batches
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_edge.pushing.collect import (
    Example,
    NotFiniteError,
    Outputs,
    Piece,
    ShardHeader,
    cut_piece,
    pad,
)
from splitfrozen_edge.pushing.gate import Gate
from splitfrozen_edge.pushing.stopping import TICK, Stop

_GATHER = 0.2  # seconds; how long slow rows are waited for to fill a window


class Computing:
    """Runs the device segment; the session is opened for the first example."""

    def __init__(
        self,
        *,
        header: ShardHeader,
        open_session: Callable[[], DeviceSession],
        gate: Gate,
        stop: Stop,
        slow: bool,
    ) -> None:
        """`slow`: rows may come one by one with pauses; a window is then not waited for."""
        self.rejected: list[NotFiniteError] = []  # one per row whose activations no codec carries
        self._header = header
        self._open_session = open_session
        self._gate = gate
        self._stop = stop
        self._slow = slow

    def batches(self, source: queue.Queue[Example | None]) -> Iterator[list[Piece]]:
        """Pieces of each batch, until `source` gives None."""
        session: DeviceSession | None = None
        for window in self._windows(source):
            for places in plan_batches([len(example.encoded.ids) for example in window]):
                self._gate.before_batch()
                self._stop.check()
                session = session or self._open_session()
                batch = [window[place] for place in places]
                yield list(self._strip(batch, session.run(*pad(batch))))

    def _windows(self, source: queue.Queue[Example | None]) -> Iterator[list[Example]]:
        ended = False
        while not ended:
            window: list[Example] = []
            until = float("inf")
            while len(window) < WINDOW and not ended and time.monotonic() < until:
                self._stop.check()
                try:
                    example = source.get(timeout=TICK)
                except queue.Empty:
                    continue
                if example is None:
                    ended = True
                    continue
                if self._slow and not window:
                    until = time.monotonic() + _GATHER
                window.append(example)
            if window:
                yield window

    def _strip(self, batch: Sequence[Example], outputs: Outputs) -> Iterator[Piece]:
        for row, example in enumerate(batch):
            try:
                yield cut_piece(row, example, outputs, self._header)
            except NotFiniteError as error:
                self.rejected.append(error)
