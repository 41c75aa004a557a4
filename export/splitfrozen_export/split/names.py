"""Which stored tensor is which parameter: prefixes, old and renamed spellings, in one place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key


def match_names(model: Any, stored: Iterable[str]) -> dict[str, list[str]]:
    """For each parameter and saved buffer of an (empty) model, the stored tensors that mean it.

    A base checkpoint fits a task model and the other way round. The rules are those by which
    Transformers loads; a tensor that it would not only rename but convert (fused experts) means
    no parameter, and a name that no tensor means is left out.
    """
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    state = model.state_dict()
    found: dict[str, list[str]] = {}
    for tensor in stored:
        name, converter = rename_source_key(
            tensor, renamings, converters, model.base_model_prefix, state
        )
        if name in state and converter is None:
            found.setdefault(name, []).append(tensor)
    return found
