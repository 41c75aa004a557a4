"""What a whole model is to do, read from its adapter or from the checkpoint itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from splitfrozen.errors import ModelError
from splitfrozen_export.home.adapter import Adapter
from splitfrozen_export.split import ModelSource
from splitfrozen_export.split.classes import is_decoder, model_class
from splitfrozen_export.split.tasks import Task, check_task, task_config

_UNLIKELY = 7919  # a number of labels by which the head is told from everything else


@dataclass(frozen=True)
class Purpose:
    """A task and, for classification, its labels."""

    task: Task
    num_labels: int | None = None
    labels: tuple[str, ...] = ()  # names in the order of their ids; empty: not known


def choose_purpose(source: ModelSource, adapter: Adapter | None) -> Purpose:
    """The task of the adapter; without one, that of the checkpoint's own head.

    Raises ModelError `model_not_supported` for a model without a head for any task.
    """
    task = adapter.task if adapter is not None else None
    heads = [str(name) for name in getattr(source.config, "architectures", None) or ()]
    if task is None and any(name.endswith("ForSequenceClassification") for name in heads):
        task = "classification"
    if task is None:
        if not is_decoder(source.config):
            raise ModelError(
                "model_not_supported",
                f"{source.id!r} is an encoder without a head: it has nothing to answer on its own; "
                "give --adapter with a trained classification head",
                param="model",
            )
        task = "causal_lm"
    check_task(source.config, task)
    if task == "causal_lm":
        return Purpose(task)
    return _classification(source, adapter)


def _classification(source: ModelSource, adapter: Adapter | None) -> Purpose:
    config: Any = source.config
    known = tuple(config.id2label[index] for index in sorted(config.id2label))
    if adapter is None:
        return Purpose("classification", len(known), known)
    trained = _trained_labels(source, adapter)
    if trained is None:
        if not any(
            str(name).endswith("ForSequenceClassification") for name in config.architectures or ()
        ):
            raise ModelError(
                "model_not_supported",
                f"the adapter {adapter.path} holds no classification head (modules_to_save), and "
                f"{source.id!r} has none of its own",
                param="adapter",
            )
        trained = len(known)
    names = adapter.labels or (known if len(known) == trained and _named(known) else ())
    if names and len(names) != trained:
        raise ModelError(
            "model_not_supported",
            f"the adapter {adapter.path} names {len(names)} labels, and its head has {trained}",
            param="adapter",
        )
    return Purpose("classification", trained, names)


def _named(labels: Sequence[str]) -> bool:
    return not all(label == f"LABEL_{index}" for index, label in enumerate(labels))


def _trained_labels(source: ModelSource, adapter: Adapter) -> int | None:
    """Rows of the adapter's own head; None when it trained none."""
    model = empty_model(source, Purpose("classification", _UNLIKELY))
    heads = [name for name, value in model.named_parameters() if value.shape[:1] == (_UNLIKELY,)]
    return next((adapter.shapes[name][0] for name in heads if name in adapter.shapes), None)


def empty_model(source: ModelSource, purpose: Purpose) -> nn.Module:
    """The whole task model without memory for its weights."""
    config: Any = task_config(source.config, purpose.task, purpose.num_labels)
    with torch.device("meta"):
        model: nn.Module = model_class(config, purpose.task, code=source.code)(config)
    return model
