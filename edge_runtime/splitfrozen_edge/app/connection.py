"""The clients of an app: made when they are needed, and none waits for ever once it is closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from splitfrozen_edge.state import StateDirectory, StateError

if TYPE_CHECKING:
    from splitfrozen_edge.http.client import Client


class Connection:
    """How to reach a device's server; threads share it."""

    def __init__(self, state: StateDirectory, retry_for: float) -> None:
        """`retry_for`: seconds of waiting for a server that is away. Reads nothing yet."""
        self._state = state
        self._retry_for = retry_for
        self._lock = threading.Lock()  # of the fields below
        self._closed = False
        self._shared: Client | None = None
        self._shared_stop = threading.Event()
        self._running: list[threading.Event] = []  # one per call under way

    @contextmanager
    def shared(self) -> Iterator[Client]:
        """The client of short calls, which keeps its connections between them.

        StateError if the device is not enrolled, or is closed before or meanwhile.
        """
        with self._call(self._shared_stop):
            with self._lock:
                if self._shared is None:
                    self._shared = self._open(self._shared_stop)
                client = self._shared
            yield client

    @contextmanager
    def own(self) -> Iterator[tuple[Client, threading.Event]]:
        """A client for one long call, and the event that stops it; errors as in `shared`."""
        stop = threading.Event()
        with self._call(stop):
            client = self._open(stop)
            try:
                yield client, stop
            finally:
                client.close()

    def check_open(self) -> None:
        """StateError after `close`."""
        if self._closed:
            raise StateError("this device is closed")

    def close(self) -> None:
        """End all waiting. A request that is under way still ends by itself."""
        with self._lock:
            self._closed = True
            for stop in (self._shared_stop, *self._running):
                stop.set()
            self._close_if_unused()

    @contextmanager
    def _call(self, stop: threading.Event) -> Iterator[None]:
        from splitfrozen_edge.pushing.stopping import Stopped

        with self._lock:
            self.check_open()
            self._running.append(stop)
        try:
            yield
        except Stopped:
            self.check_open()
            raise
        finally:
            with self._lock:
                self._running.remove(stop)
                self._close_if_unused()

    def _open(self, stop: threading.Event) -> Client:
        from splitfrozen_edge.connect import open_client

        if not self._state.is_enrolled():
            raise StateError(
                f"{self._state.path} was never enrolled: call Device.enroll(server, token, "
                "state_dir=…), or run splitfrozen-edge enroll --server URL --token …"
            )
        return open_client(self._state.enrolment(), self._retry_for, stop)

    def _close_if_unused(self) -> None:
        if self._closed and not self._running and self._shared is not None:
            self._shared.close()
            self._shared = None
