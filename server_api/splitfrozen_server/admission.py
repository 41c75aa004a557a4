"""Whether a well-formed shard belongs into its dataset. Pure: no files, no database, no HTTP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from splitfrozen.errors import RefusedError
from splitfrozen.wire import Shard


@dataclass(frozen=True)
class Published:
    """What a shard must agree with: the bundle that it names."""

    base_model_id: str
    cut: int
    hidden_size: int
    vocab_size: int
    max_length: int  # tokens of one example


@dataclass(frozen=True)
class Target:
    """What a shard must agree with: the dataset that it goes to."""

    id: str
    base_model_id: str
    cut: int
    task: str
    labels: int  # names in the label list
    sealed: bool


def check_dataset(shard: Shard, target: Target, published: Published | None) -> None:
    """Refuse a shard that the dataset cannot take; RefusedError says what does not agree.

    Codes: dataset_mismatch, unknown_bundle, label_out_of_range and what `check_bundle` raises.
    """
    _agree("dataset", shard.dataset, target.id)
    _agree("task", shard.task, target.task)
    if target.sealed:
        raise RefusedError("dataset_sealed", "the dataset is sealed and takes no more shards")
    bundle = require_bundle(shard.bundle, published)
    if bundle.base_model_id != target.base_model_id:
        raise RefusedError(
            "dataset_mismatch",
            "the shard's bundle is of another base model than the dataset",
            param="bundle",
        )
    _agree("cut", shard.cut, target.cut)
    check_bundle(shard, bundle)
    if shard.labels is not None and (highest := int(shard.labels.max())) >= target.labels:
        raise RefusedError(
            "label_out_of_range",
            f"label {highest} of example {int(shard.labels.argmax())}: the dataset has "
            f"{target.labels} labels",
            param="labels",
        )


def require_bundle(bundle: str, published: Published | None) -> Published:
    """What is published under the id `bundle`, or `unknown_bundle`."""
    if published is None:
        raise RefusedError(
            "unknown_bundle",
            f"bundle {bundle[:12]}… is not published here: `splitfrozen-server bundles add`",
            param="bundle",
        )
    return published


def check_bundle(shard: Shard, bundle: Published) -> None:
    """Refuse a shard that its bundle cannot have made: cut, width, lengths, token ids."""
    _agree("cut", shard.cut, bundle.cut)
    if shard.hidden_size != bundle.hidden_size:
        raise RefusedError(
            "dataset_mismatch",
            f"hidden has {shard.hidden_size} channels; the bundle's model has {bundle.hidden_size}",
            param="hidden",
        )
    if (longest := int(shard.lengths.max())) > bundle.max_length:
        raise RefusedError(
            "bad_lengths",
            f"an example has {longest} tokens; at most {bundle.max_length} are allowed",
            param="lengths",
        )
    if shard.targets is not None:
        _check_targets(shard, bundle.vocab_size)


def _check_targets(shard: Shard, vocab_size: int) -> None:
    assert shard.targets is not None
    if (highest := int(shard.targets.max())) >= vocab_size:
        place = int(np.argmax(shard.targets))
        raise RefusedError(
            "token_out_of_range",
            f"target {highest} at token {place}: the vocabulary has {vocab_size} ids",
            param="targets",
        )


def _agree(param: str, found: str | int, expected: str | int) -> None:
    if found != expected:
        raise RefusedError(
            "dataset_mismatch", f"{param} is {found!r}; expected {expected!r}", param=param
        )
