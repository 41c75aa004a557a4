"""The queue as apps see it: what waits for the server, and giving it up or trying again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from splitfrozen_edge.state import StateDirectory, StateError

if TYPE_CHECKING:
    from splitfrozen_edge.outbox.entries import DatasetState
    from splitfrozen_edge.outbox.store import Outbox as Store


class Outbox:
    """Computed rows on disk that the server has not confirmed. Only pushes add to it.

    Holds nothing open between calls, so threads and processes may share it; what changes the
    queue waits for no one: StateError while a push is running.
    """

    def __init__(self, state: StateDirectory) -> None:
        """For this package; apps get it as `Device.outbox`."""
        self._state = state

    def datasets(self) -> list[DatasetState]:
        """Every dataset that this device pushed to, with its counts."""
        with self._store() as store:
            return store.datasets()

    def waiting(self) -> tuple[int, int, int]:
        """(shards, examples, bytes) that wait, of all datasets."""
        with self._store() as store:
            shards, examples = store.queued()
            return shards, examples, store.queued_bytes()

    def retry(self, dataset: str) -> int:
        """Let the next push send again what the server refused for good; how many examples.

        `dataset`: name or id. StateError: no such dataset here, or a push is running.
        """
        with self._state.locked(), self._store() as store:
            return sum(store.retry(item.id)[1] for item in _find(store, dataset))

    def drop(self, dataset: str) -> int:
        """Give up what waits for a dataset, refused or not; how many examples that were.

        A later push computes them again. `dataset` and errors: as `retry`.
        """
        with self._state.locked(), self._store() as store:
            return sum(store.drop(item.id)[1] for item in _find(store, dataset))

    @contextmanager
    def _store(self) -> Iterator[Store]:
        store = self._state.outbox()
        try:
            yield store
        finally:
            store.close()


def _find(store: Store, dataset: str) -> list[DatasetState]:
    # A name may stand for several: one that was deleted on the server and made again.
    found = [item for item in store.datasets() if dataset in (item.id, item.name)]
    if not found:
        raise StateError(f"this device has not pushed to a dataset {dataset}")
    return found
