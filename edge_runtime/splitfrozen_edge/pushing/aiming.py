"""Which dataset, task and bundle a push has; asked of the server, made if need be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitfrozen.bundle import Bundle
from splitfrozen.errors import RefusedError
from splitfrozen.graph import TOKENIZER
from splitfrozen_edge.data.preprocess import Preprocessor
from splitfrozen_edge.data.tokenizer import Tokenizer
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.model.bundles import BundleStore
from splitfrozen_edge.outbox.store import Outbox
from splitfrozen_edge.pushing.options import PushOptions
from splitfrozen_edge.pushing.target import (
    Target,
    agree_on_task,
    aim,
    choose_bundle,
    published,
    require_published,
)
from splitfrozen_edge.pushing.upload import SetAsideError, park_all
from splitfrozen_edge.state import StateError


class Aim:
    """The target of one dataset's pushes; settled anew for each push."""

    def __init__(
        self, options: PushOptions, outbox: Outbox, bundles: BundleStore, client: Client
    ) -> None:
        self._options = options
        self._outbox = outbox
        self._bundles = bundles
        self._client = client
        self.given: Mapping[str, Any] | None = None  # the dataset, so that the server is not asked
        self._dataset: Mapping[str, Any] | None = None
        self._target: Target | None = None
        self._preprocessor: tuple[tuple[str, str], Preprocessor] | None = None

    @property
    def target(self) -> Target:
        """What `settle` found."""
        if self._target is None:
            raise AssertionError("settle comes first")
        return self._target

    def task(self) -> str | None:
        """The task that rows must have, or None if they say; asks for the dataset."""
        self._dataset = self.given or self._client.dataset(self._options.dataset)
        if self._dataset is None:
            self._set_deleted_aside()
        return agree_on_task(self._dataset, self._options.task)

    def _set_deleted_aside(self) -> None:
        """What waits for a dataset that was deleted on the server is taken by nobody."""
        name = self._options.dataset
        refused = RefusedError("not_found", f"dataset {name} was deleted on the server")
        for item in self._outbox.datasets():
            if name in (item.id, item.name) and item.queued_shards:
                shards, examples = park_all(self._outbox, item.id, refused, None)
                raise SetAsideError(refused, shards, examples, item.id, None)

    def settle(self, task: str) -> Target:
        """Choose the bundle, make the dataset if it does not exist; they fit each other.

        After `task`. A bundle that the server has replaced is replaced here too, unless the user
        named it.
        """
        dataset, options = self._dataset, self._options
        bundle = choose_bundle(options.bundle, dataset, self._bundles, self._outbox)
        if dataset is None:
            dataset = self._client.create_dataset(options.dataset, bundle=bundle.id, task=task)
        elif options.bundle is None and not self._is_published(bundle, dataset):
            bundle = self._bundles.find(str(dataset["base_model"]), int(dataset["cut"]))
        self._dataset = dataset
        self._target = aim(dataset, bundle, task=task, wire=options.wire)
        return self._target

    def find(self) -> None:
        """Settle on a dataset that exists, to send what waits for it."""
        if self.task() is None or self._dataset is None:
            raise StateError(f"there is no dataset {self._options.dataset} and there are no rows")
        self.settle(str(self._dataset["task"]))

    def require_open(self) -> None:
        """RefusedError or StateError unless the server takes new examples of this target."""
        target = self.target
        if target.sealed:
            dataset = target.header.dataset
            refused = RefusedError(
                "dataset_sealed", f"dataset {target.name} takes no more examples"
            )
            shards, examples = park_all(self._outbox, dataset, refused, None)
            raise SetAsideError(refused, shards, examples, dataset, None) if shards else refused
        assert self._dataset is not None
        if self.given is None:
            require_published(self._client, self._dataset, target.bundle)
        self._outbox.remember_dataset(target.header.dataset, target.name, target.bundle.id)

    def _is_published(self, bundle: Bundle, dataset: Mapping[str, Any]) -> bool:
        if self.given is None:
            return bundle.id in published(self._client, dataset)
        # Not asked now; a bundle that was replaced meanwhile is refused with its shards, once.
        return self._outbox.dataset_bundle(str(dataset["id"])) == bundle.id

    def preprocessor(self) -> Preprocessor:
        """Text -> ids of the target's bundle and task; loaded once."""
        target = self.target
        wanted = (target.bundle.id, target.header.task)
        if self._preprocessor is None or self._preprocessor[0] != wanted:
            manifest = target.bundle.manifest
            made = Preprocessor(
                manifest.preprocess,
                Tokenizer.from_file(target.bundle.path(TOKENIZER)),
                task=target.header.task,
                vocab_size=manifest.vocab_size,
            )
            self._preprocessor = (wanted, made)
        return self._preprocessor[1]

    def described(self) -> Target | None:
        """The target, if one was settled."""
        return self._target
