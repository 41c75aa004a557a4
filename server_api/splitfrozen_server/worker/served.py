"""Models that answer split sessions: one server segment per base model and cut, its adapters on it.

Shared with nothing of training: a job changes its weights. All calls come from one thread.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from splitfrozen.errors import ModelError
from splitfrozen_export.split import (
    ModelSource,
    ServerSegment,
    load_server_segment,
    lora_config,
    resolve_model,
    run_segment,
    start_cache,
)
from splitfrozen_server.worker.caches import JoinedCache, LayerPlan, Scratch, SessionCache
from splitfrozen_server.worker.model import compute_device, restore_adapter
from splitfrozen_server.worker.packed import read_adapter

MODELS = 2  # segments in memory
ADAPTERS = 32  # on one segment


@dataclass(frozen=True)
class BaseRef:
    """A base model and where it is cut."""

    path: str
    cut: int
    trust_remote_code: bool


@dataclass(frozen=True)
class ModelRef:
    """What a session speaks with."""

    base: BaseRef
    adapter: str | None  # packed adapter; None: the base model itself


class ServedModel:
    """A server segment, and the adapters that were asked last."""

    def __init__(self, ref: BaseRef) -> None:
        source = resolve_model(ref.path, trust_remote_code=ref.trust_remote_code)
        segment = load_server_segment(source, ref.cut, "causal_lm")
        self.plan = cache_plan(segment)
        self.eos = end_tokens(source)
        self.device = compute_device()
        self._segment = segment
        self._model: nn.Module = segment.model.to(self.device).eval()
        self._width = int(source.config.get_text_config().hidden_size)
        self._adapters: OrderedDict[str, str] = OrderedDict()  # path -> PEFT's name
        self._made = 0
        self._scratch = (Scratch(), Scratch())
        self.token_bytes = self._measure()

    def forward(
        self, adapter: str | None, hidden: Tensor, sessions: Sequence[SessionCache]
    ) -> Tensor:
        """Logits [batch, vocabulary] after the last token of `hidden` float32 [batch, new, d].

        The caches take the new tokens up; it is the caller who commits them.
        """
        cache = JoinedCache(self.plan, sessions, self._scratch)
        mask = cache.mask(hidden.shape[1], self.device)
        with self._adapted(adapter), torch.inference_mode():
            logits = run_segment(
                self._model, hidden.to(self.device), mask, cache=cache, last_only=True
            )
        return logits[:, -1]

    def load(self, adapter: str | None) -> None:
        """Have an adapter's weights in memory. ModelError if they do not fit."""
        if adapter is None or adapter in self._adapters:
            return
        packed = read_adapter(Path(adapter))
        name = f"adapter{self._made}"
        self._made += 1
        lora = packed.lora
        config = lora_config(
            self._segment, r=lora.r, alpha=lora.alpha, dropout=0.0,
            target_modules=lora.target_modules,
        )  # fmt: skip
        adapted = self._attach(name, config)
        restore_adapter(adapted, packed.tensors, adapter=name)
        adapted.to(self.device).eval()
        self._adapters[adapter] = name
        while len(self._adapters) > ADAPTERS:
            adapted.delete_adapter(self._adapters.popitem(last=False)[1])

    def _attach(self, name: str, config: Any) -> PeftModel:
        with warnings.catch_warnings():
            # PEFT asks for a name that Transformers will drop: nothing an operator could act on.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            if isinstance(self._model, PeftModel):
                self._model.add_adapter(name, config)
                return self._model
            adapted: PeftModel = get_peft_model(self._model, config, adapter_name=name)
        self._model = adapted
        return adapted

    @contextmanager
    def _adapted(self, adapter: str | None) -> Iterator[None]:
        """Within the block, the segment has this adapter, or none."""
        self.load(adapter)
        if not isinstance(self._model, PeftModel):
            yield
            return
        if adapter is None:
            with self._model.disable_adapter():
                yield
            return
        self._adapters.move_to_end(adapter)
        if self._model.active_adapter != self._adapters[adapter]:
            self._model.set_adapter(self._adapters[adapter])
        yield

    def _measure(self) -> list[int]:
        """Bytes that a token takes in each block's cache, seen on one token."""
        cache = SessionCache(self.plan)
        self.forward(None, torch.zeros(1, 1, self._width), [cache])
        return [tape.token_bytes for tape in cache.tapes]


class ServedModels:
    """The segments that were asked last."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[BaseRef, ServedModel] = OrderedDict()

    def get(self, ref: ModelRef) -> ServedModel:
        """The segment with the adapter loaded. ModelError if the model cannot be served."""
        if ref.base not in self._loaded:
            while len(self._loaded) >= MODELS:  # first, or memory must hold one more
                self._loaded.popitem(last=False)
            self._loaded[ref.base] = ServedModel(ref.base)
        self._loaded.move_to_end(ref.base)
        model = self._loaded[ref.base]
        model.load(ref.adapter)
        return model


def cache_plan(segment: ServerSegment) -> list[LayerPlan]:
    """What each block's cache holds, from the one that Transformers would make.

    Raises ModelError for blocks that keep something else than keys and values.
    """
    found = []
    for index, layer in enumerate(start_cache(segment).layers):
        if type(layer) is DynamicSlidingWindowLayer:
            window = layer.sliding_window
        elif type(layer) is DynamicLayer:
            window = None
        else:
            raise ModelError(
                "model_not_supported",
                f"block {index} keeps a state of type {type(layer).__name__}; split sessions hold "
                "keys and values only",
            )
        found.append(LayerPlan(window, is_phantom=index < segment.cut))
    return found


def end_tokens(source: ModelSource) -> list[int]:
    """Ids that end a text, as Transformers' `generate` would take them."""
    ids: Any = source.config.get_text_config().eos_token_id
    with suppress(OSError):  # not every model has a generation_config.json
        ids = GenerationConfig.from_pretrained(source.path).eos_token_id or ids
    if ids is None:
        return []
    return [int(one) for one in (ids if isinstance(ids, list) else [ids])]
