"""What a follower asks for: its dataset, and where its rows go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from splitfrozen.errors import RefusedError
from splitfrozen_edge.daemon.joined import Joined
from splitfrozen_edge.daemon.source import RowSink
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.outbox.store import Outbox
from splitfrozen_edge.policy.gate import PolicyGate
from splitfrozen_edge.state import StateDirectory
from splitfrozen_edge.watching.ledger import Ledger


@dataclass(frozen=True)
class Opening:
    """Of one daemon."""

    state: StateDirectory
    outbox: Outbox
    ledger: Ledger
    client: Client
    gate: PolicyGate
    stop: threading.Event
    say: Callable[[str], None]

    def find(self, item: Joined) -> Mapping[str, Any]:
        """A joined dataset, made if that was asked; as it was last if the server is away."""
        options = item.options
        try:
            found = self.client.dataset(item.dataset)
            if found is None and options.bundle and options.task:
                from splitfrozen_edge.model.bundles import BundleStore

                bundle = BundleStore(self.state, self.outbox, self.client).open(options.bundle)
                found = self.client.create_dataset(
                    item.dataset, bundle=bundle.id, task=options.task
                )
        except RefusedError as error:
            before = self.ledger.recall(item.dataset) if error.retryable else None
            if before is None:
                raise
            return before
        if found is None:
            return {"deleted": True}
        self.ledger.remember(item.dataset, found)
        return found

    def open_sink(self, item: Joined) -> RowSink:
        # Not at the top: a daemon that waits has no need of the runtime's memory.
        from splitfrozen_edge.daemon.verified import VerifiedBundles
        from splitfrozen_edge.pushing.pusher import Pusher, PushOptions

        options = item.options
        return Pusher(
            PushOptions(
                dataset=item.dataset,
                bundle=options.bundle,
                task=options.task,
                fields=options.fields or None,
                labels=options.labels,
                wire=options.wire,
                strict=options.strict,
                threads=options.threads,
                memory=options.memory,
                quiet=True,
            ),
            self.outbox,
            self.state.key(),
            VerifiedBundles(self.state, self.outbox, self.client),
            self.client,
            home=self.state.path,
            stop=self.stop,
            warn=self.say,
            gate=self.gate,
        )
