"""What the device segment of a cut needs of its checkpoint, found out without reading a weight."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch

from splitfrozen.errors import ModelError
from splitfrozen_export.split.classes import model_class
from splitfrozen_export.split.names import match_names
from splitfrozen_export.split.probe import device_parameters
from splitfrozen_export.split.refuse import check_cut
from splitfrozen_export.split.source import ModelSource, absent_files, weight_map


def segment_shapes(source: ModelSource, cut: int) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter that the segment reads, by its name in the base model.

    Raises ModelError `model_not_supported` when the model cannot be cut there.
    """
    check_cut(source.config, cut, code=source.code)
    wanted = device_parameters(source.config, cut, code=source.code)
    with torch.device("meta"):
        model = model_class(source.config, "base", code=source.code)(source.config)
    return {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if name in wanted
    }


def missing_files(source: ModelSource, cut: int) -> dict[str, int | None]:
    """Weight files that an export would download, and their sizes in bytes, None where unknown.

    Empty for a directory and for a Hub snapshot whose files are there.
    """
    files = weight_map(source.path)
    if files is None:
        return absent_files(source)
    wanted = device_parameters(source.config, cut, code=source.code)
    return absent_files(source, stored_names(source, files, wanted).values())


def stored_names(
    source: ModelSource, stored: Iterable[str], wanted: Collection[str]
) -> dict[str, str]:
    """Parameter of the base model -> the tensor of the checkpoint that holds it.

    Raises ModelError `model_not_supported` when one of `wanted` is not in the checkpoint.
    """
    cls = model_class(source.config, "base", code=source.code)
    with torch.device("meta"):
        matches = match_names(cls(source.config), stored)
    missing = sorted(set(wanted) - matches.keys())
    if missing:
        raise ModelError(
            "model_not_supported",
            f"the checkpoint of {source.id!r} has no tensor for {missing[0]} of the device segment",
        )
    return {name: matches[name][-1] for name in wanted}
