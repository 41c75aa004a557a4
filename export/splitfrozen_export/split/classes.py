"""The Transformers class that a configuration means for each of our uses."""

from __future__ import annotations

from typing import Any, Literal

from transformers import PretrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto import modeling_auto as auto

from splitfrozen.errors import ModelError

Use = Literal["base", "causal_lm", "classification"]

_AUTO = {
    "base": ("AutoModel", auto.MODEL_MAPPING),
    "causal_lm": ("AutoModelForCausalLM", auto.MODEL_FOR_CAUSAL_LM_MAPPING),
    "classification": (
        "AutoModelForSequenceClassification",
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    ),
}


def is_decoder(config: PretrainedConfig) -> bool:
    """Whether the family predicts next tokens.

    Encoders such as BERT have a causal class too, so what tells them apart is the masked one.
    """
    known = type(config) in auto.MODEL_FOR_MASKED_LM_MAPPING
    remote = getattr(config, "auto_map", None) or {}
    return not known and "AutoModelForMaskedLM" not in remote


def model_class(config: PretrainedConfig, use: Use, *, code: str | None = None) -> type[Any]:
    """Return the concrete model class of `config` for `use`.

    `code` is the directory whose own modelling code may run, or None to allow only the
    library's. Raises ModelError `model_not_supported` when the family has no such class.
    """
    name, mapping = _AUTO[use]
    remote = (getattr(config, "auto_map", None) or {}).get(name)
    if code is not None and remote is not None:
        own: type[Any] = get_class_from_dynamic_module(remote, code)
        return own
    found: Any = mapping.get(type(config), None)
    if found is None:
        raise ModelError(
            "model_not_supported",
            f"model type {config.model_type!r} has no {name} class; choose another task or model",
        )
    first: type[Any] = found[0] if isinstance(found, tuple) else found
    return first
