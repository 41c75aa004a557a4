"""An adapter becomes part of the weights."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from splitfrozen_export.home.adapter import Adapter, refused, split_lora
from splitfrozen_export.split.stored import StoredParameter


def merge_adapter(model: Any, adapter: Adapter) -> Any:
    """`model` with the adapter merged into its weights, by PEFT's own `merge_and_unload`.

    `model` is the whole task model or the server segment's; its modules are changed in place, and
    of a streamed model those that the adapter changes come into memory. Raises ModelError
    `model_not_supported` with PEFT's own words when it cannot load it.
    """
    from peft import PeftModel  # seconds to import, and only adapters need it

    for path in {split_lora(name)[0] for name in adapter.shapes}:
        _bring_in(model, path)
    tied = model.config.tie_word_embeddings
    try:
        with warnings.catch_warnings():
            # a table that stays in its file has no address by which PEFT sees that it is tied
            warnings.filterwarnings("ignore", message="Input and output embeddings are no longer")
            merged = PeftModel.from_pretrained(model, adapter.path).merge_and_unload()
    except (ValueError, RuntimeError, KeyError) as error:
        raise refused(adapter.path, f"cannot be loaded: {error}") from error
    merged.config.tie_word_embeddings = tied
    return merged.eval().requires_grad_(False)


def _bring_in(model: nn.Module, path: str) -> None:
    """Read the stored parameters of the module at `path`, or of the one that holds it.

    What shares them (a tied head) shares the values that come into memory, and thus a change.
    """
    modules = dict(model.named_modules())
    wanted = modules.get(path) or modules[path.rpartition(".")[0]]
    for parameter in list(wanted._parameters.values()):
        if isinstance(parameter, StoredParameter):
            read = nn.Parameter(parameter.stored.read(), requires_grad=False)
            for module in modules.values():
                for name, other in module._parameters.items():
                    if other is parameter:
                        module._parameters[name] = read
