"""Bundles whose hashes were checked once, for as long as the model is loaded."""

from __future__ import annotations

from splitfrozen.bundle import Bundle
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.model.bundles import BundleStore
from splitfrozen_edge.outbox.store import Outbox
from splitfrozen_edge.state import StateDirectory


class VerifiedBundles(BundleStore):
    """Of one sink: a few rows every ten seconds must not cost a hash of a hundred megabytes."""

    def __init__(self, state: StateDirectory, outbox: Outbox, client: Client) -> None:
        super().__init__(state, outbox, client)
        self._opened: dict[str, Bundle] = {}

    def open(self, wanted: str) -> Bundle:
        """As BundleStore; what was opened before is not looked at again."""
        if wanted not in self._opened:
            self._opened[wanted] = super().open(wanted)
        return self._opened[wanted]
