"""Where a push goes: the dataset, the bundle that feeds it, and that the two fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splitfrozen.bundle import Bundle
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.model.bundles import BundleStore
from splitfrozen_edge.outbox.store import Outbox
from splitfrozen_edge.pushing.collect import ShardHeader
from splitfrozen_edge.state import StateError


@dataclass(frozen=True)
class Target:
    """A dataset and a bundle that fit each other."""

    name: str
    labels: tuple[str, ...]  # in the dataset's order
    open_labels: bool
    sealed: bool
    bundle: Bundle
    header: ShardHeader


def agree_on_task(dataset: Mapping[str, Any] | None, task: str | None) -> str | None:
    """The task of rows: that of the dataset if there is one; StateError if another was asked."""
    if dataset is None:
        return task
    if task not in (None, dataset["task"]):
        raise StateError(f"dataset {dataset['name']} is for {dataset['task']}, not {task}")
    return str(dataset["task"])


def choose_bundle(
    wanted: str | None, dataset: Mapping[str, Any] | None, bundles: BundleStore, outbox: Outbox
) -> Bundle:
    """The bundle that was asked for, or used before, or that the server has for the dataset."""
    if wanted is not None:
        return bundles.open(wanted)
    if dataset is None:
        raise StateError("the dataset does not exist; to make it, say --bundle DIRECTORY or ID")
    before = outbox.dataset_bundle(str(dataset["id"]))
    if before is not None:
        return bundles.open(before)
    return bundles.find(str(dataset["base_model"]), int(dataset["cut"]))


def aim(dataset: Mapping[str, Any], bundle: Bundle, *, task: str, wire: str | None) -> Target:
    """Check that dataset, bundle, task and codec fit; StateError says which do not."""
    manifest = bundle.manifest
    if (dataset["task"], dataset["cut"]) != (task, manifest.cut):
        raise StateError(
            f"dataset {dataset['name']} takes {dataset['task']} at cut {dataset['cut']}; "
            f"this push is {task} at cut {manifest.cut}"
        )
    codec = wire or manifest.wire
    if codec not in manifest.wire_codecs:
        listed = ", ".join(manifest.wire_codecs)
        raise StateError(f"the bundle does not serve the codec {codec}; it serves {listed}")
    return Target(
        name=str(dataset["name"]),
        labels=tuple(dataset["labels"] or ()),
        open_labels=bool(dataset["open_labels"]),
        sealed=bool(dataset["sealed"]),
        bundle=bundle,
        header=ShardHeader(
            bundle=bundle.id,
            dataset=str(dataset["id"]),
            cut=manifest.cut,
            codec=codec,
            task=task,
            hidden_size=manifest.hidden_size,
        ),
    )


def published(client: Client, dataset: Mapping[str, Any]) -> list[str]:
    """Ids of the bundles that the server takes shards of for a dataset."""
    base, cut = str(dataset["base_model"]), int(dataset["cut"])
    return [str(item["id"]) for item in client.bundles(base, cut)]


def require_published(client: Client, dataset: Mapping[str, Any], bundle: Bundle) -> None:
    """StateError unless the server takes shards of this bundle for the dataset.

    Asked before anything is computed: a shard that is refused would wait for ever.
    """
    known = published(client, dataset)
    if bundle.id not in known:
        base, cut = dataset["base_model"], dataset["cut"]
        own = bundle.manifest.base_model.id
        raise StateError(
            f"dataset {dataset['name']} takes bundles of {base} at cut {cut} that the server "
            f"publishes; {bundle.directory} ({own}, {bundle.id[:12]}…) is none. Publish it "
            "(splitfrozen-server bundles add DIRECTORY)"
            + (f" or use --bundle {known[-1]}" if known else "")
        )


def place_labels(client: Client, target: Target, names: list[str]) -> dict[str, int]:
    """Index of every label in the dataset's list; new names are added to an open one."""
    labels = list(target.labels)
    missing = [name for name in names if name not in labels]
    if missing:
        labels = client.add_labels(target.header.dataset, missing)
    return {name: place for place, name in enumerate(labels)}
