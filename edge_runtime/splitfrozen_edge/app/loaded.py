"""Bundles and sessions that a device keeps open, so that only the first use of a model is slow."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from splitfrozen.graph import DEVICE_WITH_PAST
from splitfrozen.manifest import MANIFEST_NAME
from splitfrozen_edge.app.bundle import Bundle, BundleLike, unwrap
from splitfrozen_edge.app.connection import Connection
from splitfrozen_edge.app.embedding import Embedder
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.inference.choose import choose_generation_bundle, choose_model_bundle
from splitfrozen_edge.model.bundles import BundleStore
from splitfrozen_edge.model.cached_session import CachedSession, require_past
from splitfrozen_edge.model.opening import open_graph, open_session
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_edge.outbox.store import Outbox
from splitfrozen_edge.state import StateDirectory, StateError

T = TypeVar("T")


class Loaded:
    """What was opened so far. Threads share it; each bundle and session is opened once."""

    def __init__(self, state: StateDirectory, connection: Connection, threads: int | None) -> None:
        """The connection is used only where the server must be asked."""
        self._state = state
        self._connection = connection
        self._threads = threads
        self._lock = threading.RLock()
        self._bundles: dict[str, Bundle] = {}  # by directory or id, as it was said
        self._classifying: dict[str, Bundle] = {}  # by model
        self._generating: dict[str, Bundle] = {}  # by model
        self._sessions: dict[str, DeviceSession] = {}  # by bundle id, as the next two
        self._cached: dict[str, CachedSession] = {}
        self._embedders: dict[str, Embedder] = {}

    def bundle(self, wanted: BundleLike | None) -> Bundle:
        """A bundle by directory or id (downloaded if it is not here), or the one used last."""
        if isinstance(wanted, Bundle):
            return wanted
        with self._lock:
            key = self._last_used() if wanted is None else os.fspath(wanted)
            return self._once(self._bundles, key, lambda: self._open(key))

    def classifying(self, model: str, wanted: BundleLike | None) -> Bundle:
        """The bundle that feeds a classifying model of the server, which is asked once."""
        if wanted is not None:
            return self.bundle(wanted)

        def ask() -> Bundle:
            with self._store() as (store, client):
                return Bundle(choose_model_bundle(None, model, store, client))

        return self._once(self._classifying, model, ask)

    def generating(self, model: str, wanted: BundleLike | None) -> Bundle:
        """The bundle that feeds a language model of the server; StateError if it cannot."""
        if wanted is not None:
            found = self.bundle(wanted)
            require_past(unwrap(found))
            return found

        def ask() -> Bundle:
            with self._store() as (store, client):
                return Bundle(choose_generation_bundle(None, model, store, client))

        return self._once(self._generating, model, ask)

    def forget(self, model: str) -> bool:
        """Ask the server again about a model next time; whether that can change anything."""
        with self._lock:
            known = (self._classifying.pop(model, None), self._generating.pop(model, None))
            return any(known)

    def session(self, bundle: Bundle) -> DeviceSession:
        """The open session of a bundle, for its own wire codec."""
        inner, home = unwrap(bundle), self._state.path
        wire = inner.manifest.wire
        return self._once(
            self._sessions,
            bundle.id,
            lambda: open_session(inner, home, threads=self._threads, wire=wire),
        )

    def cached_session(self, bundle: Bundle) -> CachedSession:
        """The session of a bundle that generates."""

        def load() -> CachedSession:
            inner, home = unwrap(bundle), self._state.path
            graph = open_graph(inner, DEVICE_WITH_PAST, home, threads=self._threads)
            return CachedSession(inner, wire=inner.manifest.wire, graph=graph)

        return self._once(self._cached, bundle.id, load)

    def embedder(self, bundle: Bundle) -> Embedder:
        """Tokenizer and session of a bundle."""
        return self._once(
            self._embedders, bundle.id, lambda: Embedder(unwrap(bundle), self.session(bundle))
        )

    def _once(self, known: dict[str, T], key: str, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in known:
                known[key] = make()
            return known[key]

    def _open(self, wanted: str) -> Bundle:
        """A directory needs no server; an id may."""
        if not Path(wanted).is_dir():
            with self._store() as (store, _):
                return Bundle(store.open(wanted))
        found = Bundle.open(wanted)
        with self._outbox() as outbox:
            outbox.remember_bundle(found.id, found.directory.resolve())
        return found

    def _last_used(self) -> str:
        with self._outbox() as outbox:
            for _, directory in outbox.bundles():
                if (directory / MANIFEST_NAME).is_file():
                    return str(directory)
        raise StateError("no bundle was used on this device yet; say bundle=DIRECTORY or ID")

    @contextmanager
    def _store(self) -> Iterator[tuple[BundleStore, Client]]:
        with self._connection.shared() as client, self._outbox() as outbox:
            yield BundleStore(self._state, outbox, client), client

    @contextmanager
    def _outbox(self) -> Iterator[Outbox]:
        outbox = self._state.outbox()
        try:
            yield outbox
        finally:
            outbox.close()
