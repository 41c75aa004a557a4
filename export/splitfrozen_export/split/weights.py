"""Read the weights of one segment, and only those."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PretrainedConfig

from splitfrozen.errors import ModelError
from splitfrozen_export.quiet import no_bars
from splitfrozen_export.split.assemble import Surgery, Wanted, assemble
from splitfrozen_export.split.source import ModelSource, fetch_weights

EVERYTHING = Wanted()


def load_weights(
    cls: type[Any],
    source: ModelSource,
    config: PretrainedConfig,
    *,
    surgery: Surgery | None = None,
    wanted: Wanted = EVERYTHING,
    stream: bool = False,
    seed: int = 0,
) -> Any:
    """Load a `cls` of `config` in fp32, evaluation mode, from the checkpoint of `source`.

    `surgery` removes parts of the still empty model; their weights are then never read. What the
    checkpoint may lack is initialised from `seed`. With `stream` parameters stay in their files
    and are read on every use; a checkpoint that must be converted while it is loaded (old names,
    fused experts) is loaded by Transformers instead, whole.

    Raises ModelError `model_not_supported` when a parameter is missing or has another shape.
    """
    model = assemble(cls, source, config, surgery=surgery, wanted=wanted, stream=stream, seed=seed)
    if model is None:
        model = _load_stock(cls, source, config, surgery=surgery, wanted=wanted, seed=seed)
    model.config.name_or_path = model.name_or_path = source.id
    return model.eval()


def _load_stock(
    cls: type[Any],
    source: ModelSource,
    config: PretrainedConfig,
    *,
    surgery: Surgery | None,
    wanted: Wanted,
    seed: int,
) -> Any:
    fetch_weights(source)
    may_lack = [*wanted.may_lack, *wanted.unread]
    with no_bars(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model, info = _operated(cls, surgery, may_lack).from_pretrained(
            source.path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, unless it is a head of other labels
            trust_remote_code=source.trust_remote_code,
        )
    _require_all(source, info, may_lack)
    return model


def _operated(cls: type[Any], surgery: Surgery | None, may_lack: Sequence[str]) -> Any:
    """A subclass of `cls` whose models undergo `surgery` before any weight is read.

    It keeps the name of `cls`, which Transformers writes into saved files and uses to find the
    conversions of old checkpoints.
    """

    def __init__(self: Any, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, config, *args, **kwargs)
        if surgery is not None:
            surgery(self)

    body = {
        "__init__": __init__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        # the checkpoint holds the whole model: what this segment lacks is not worth a report
        "_keys_to_ignore_on_load_unexpected": [r"."],
        "_keys_to_ignore_on_load_missing": list(may_lack) or None,
    }
    return type(cls.__name__, (cls,), body)


def _require_all(source: ModelSource, info: dict[str, Any], may_lack: Sequence[str]) -> None:
    misfits = {key for key, *_shapes in info["mismatched_keys"]}
    allowed = {key for key in misfits if any(re.search(pattern, key) for pattern in may_lack)}
    wrong = sorted(info["missing_keys"] | (misfits - allowed))
    if wrong:
        raise ModelError(
            "model_not_supported",
            f"the weights of {source.id!r} do not fit its configuration: {wrong[0]} and "
            f"{len(wrong) - 1} more are missing or have another shape",
        )
