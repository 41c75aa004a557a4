"""The whole, uncut task model: what the two segments together must equal."""

from __future__ import annotations

from typing import Any

from splitfrozen_export.split.assemble import Wanted
from splitfrozen_export.split.classes import model_class
from splitfrozen_export.split.source import ModelSource
from splitfrozen_export.split.tasks import Task, check_task, head_patterns, task_config
from splitfrozen_export.split.weights import load_weights


def load_whole_model(
    source: ModelSource,
    task: Task,
    *,
    num_labels: int | None = None,
    seed: int = 0,
    stream: bool = False,
) -> Any:
    """The family's own model for `task`, in fp32, evaluation mode, without a cache of its own.

    With `stream` its weights stay in the checkpoint and each operation reads its own. A
    classification head that the checkpoint lacks is initialised from `seed`. Raises ModelError
    `model_not_supported` when the family lacks the task or the checkpoint a weight.
    """
    check_task(source.config, task)
    config = task_config(source.config, task, num_labels)
    return load_weights(
        model_class(config, task, code=source.code),
        source,
        config,
        wanted=Wanted(may_lack=head_patterns(config, task, code=source.code)),
        stream=stream,
        seed=seed,
    )
