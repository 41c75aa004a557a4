"""What can be said about a model before anything heavy is imported: its place and config.json.

Only what is certain is refused here; the configuration as Transformers reads it decides the rest
(`split.refuse`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitfrozen.errors import ModelError

CONFIG = "config.json"
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers")  # as the families spell it
FIELDS = (  # that `unsupported` looks at
    "is_encoder_decoder",
    "quantization_config",
    "num_kv_shared_layers",
    "hidden_size_per_layer_input",
)
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def model_directory(name: str) -> Path | None:
    """The directory that a model's name means; None for what can only be a Hub id.

    Raises ModelError `model_not_found` for a path without a directory.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if _looks_like_path(name):
        raise ModelError("model_not_found", f"no directory {name!r}; check the path of the model")
    return None


def check_place(name: str, cut: int | None) -> None:
    """Refuse a directory that is no model, cannot be cut at all, or not after `cut` blocks.

    Says nothing about a Hub id, which would have to be asked for. `cut` None: it is not known.
    Raises ModelError `model_not_found` or `model_not_supported`.
    """
    directory = model_directory(name)
    if directory is None:
        return
    try:
        config = json.loads((directory / CONFIG).read_text("utf-8"))
    except FileNotFoundError:
        raise no_config(name) from None
    except (OSError, ValueError):
        return  # Transformers has better words for it
    if not isinstance(config, dict):
        return
    kind = str(config.get("model_type"))
    if (reason := unsupported(config)) is not None:
        raise ModelError("model_not_supported", f"{kind}: {reason}")
    layers = next((config[key] for key in _LAYERS if isinstance(config.get(key), int)), None)
    if cut is not None and layers is not None:
        check_range(kind, cut, layers)


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Why a model with these fields of its configuration cannot be cut; None: nothing is known."""
    if config.get("is_encoder_decoder"):
        return "encoder-decoder models have two block lists; use an encoder or a decoder"
    if config.get("quantization_config") is not None:
        return "the weights are quantized already; use the full-precision checkpoint"
    if _count(config, "num_kv_shared_layers") > 0:
        return "later layers reuse keys and values of earlier ones, which a cut would separate"
    if _count(config, "hidden_size_per_layer_input") > 0:
        return "every layer reads an embedding of the token ids, which the server must not see"
    return None


def _count(config: Mapping[str, Any], name: str) -> int:
    """A number of the configuration; what is none is for Transformers to complain about."""
    found = config.get(name)
    return found if isinstance(found, int) else 0


def check_range(kind: str, cut: int, layers: int) -> None:
    """Raise ModelError unless both halves of a model with so many blocks have one."""
    if not 1 <= cut < layers:
        raise ModelError(
            "model_not_supported",
            f"cut {cut} is out of range: {kind} has {layers} blocks, so choose a cut from 1 to "
            f"{layers - 1}",
            param="cut",
        )


def experts(config: Any) -> int:
    """How many experts a layer chooses from, by the configuration; 0: it is dense."""
    counts = (getattr(config, name, None) for name in _EXPERTS)
    return max((count for count in counts if isinstance(count, int) and count > 1), default=0)


def no_config(name: str) -> ModelError:
    """What is wrong with a directory or repository of something else."""
    return ModelError("model_not_found", f"{name!r} has no {CONFIG}; give a Transformers model")


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or os.path.exists(name)
