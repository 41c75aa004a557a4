"""The server segment: blocks k..L-1, final norm and head of the family's own task model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.pytorch_utils import Conv1D

from splitfrozen_export.split.assemble import Wanted
from splitfrozen_export.split.blocks import count_layers, find_blocks
from splitfrozen_export.split.classes import is_decoder, model_class
from splitfrozen_export.split.context import inject
from splitfrozen_export.split.embedding import drop_embedding
from splitfrozen_export.split.positions import (
    accepts_keeping,
    accepts_positions,
    positions_from_mask,
    stand_in_ids,
)
from splitfrozen_export.split.probe import count_block_outputs
from splitfrozen_export.split.refuse import check_cut
from splitfrozen_export.split.slots import Slot
from splitfrozen_export.split.source import ModelSource
from splitfrozen_export.split.tasks import (
    Task,
    check_task,
    head_patterns,
    task_config,
    trained_heads,
)
from splitfrozen_export.split.weights import load_weights


@dataclass(frozen=True)
class ServerSegment:
    """A task model without its lower blocks, and what training needs to know about it."""

    model: nn.Module  # the family's task model, fp32, evaluation mode
    task: Task
    cut: int
    num_layers: int
    is_decoder: bool
    head_modules: list[str]  # trained beside LoRA; empty for causal_lm
    target_modules: list[str]  # every linear layer of one block, by its path inside the block
    fan_in_fan_out: bool  # the linear layers store [in, out] (GPT-2)
    revision: str | None

    @property
    def lora_layers(self) -> list[int]:
        """Indices of the blocks that the server owns."""
        return list(range(self.cut, self.num_layers))


def load_server_segment(
    source: ModelSource,
    cut: int,
    task: Task,
    *,
    num_labels: int | None = None,
    seed: int = 0,
    stream: bool = False,
) -> ServerSegment:
    """Load blocks cut..L-1 and the head of `task`, in fp32; lower blocks are never read.

    Memory: the segment itself, or with `stream`, for measuring only, its largest layer.

    A classification head that the checkpoint lacks is initialised from `seed`, with the same
    values as stock Transformers gives it after `torch.manual_seed(seed)`.

    Raises ModelError `model_not_supported` when the model cannot be cut there or lacks the task.
    """
    check_cut(source.config, cut, code=source.code)
    check_task(source.config, task)
    config = task_config(source.config, task, num_labels)
    model = _load(source, config, cut, task, seed, stream)
    layers = count_layers(config)
    block = find_blocks(model, layers).modules[cut]
    return ServerSegment(
        model=model,
        task=task,
        cut=cut,
        num_layers=layers,
        is_decoder=is_decoder(config),
        head_modules=trained_heads(config, task, code=source.code),
        target_modules=_linear_paths(block),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in block.modules()),
        revision=source.revision,
    )


def run_segment(
    segment: ServerSegment | nn.Module,
    hidden: Tensor,
    attention_mask: Tensor,
    *,
    cache: Cache | None = None,
    last_only: bool = False,
) -> Tensor:
    """Run the blocks above the cut on activations `hidden` [batch, tokens, d].

    `segment` may be the segment, its model, or a PeftModel around its model. `attention_mask`
    is int64 [batch, tokens]; with a `cache` it also covers the tokens already in it, which stand
    before `hidden`. Returns logits: [batch, labels] for classification (decoders: at the last
    real token), [batch, tokens, vocabulary] for causal_lm; with `last_only` the latter may be
    [batch, 1, vocabulary], of the last token, where the family can spare itself the others.
    """
    model = unwrap(segment)
    inputs: dict[str, Any] = {"attention_mask": attention_mask}
    new = hidden.shape[1]
    inputs["input_ids"] = stand_in_ids(attention_mask[:, -new:], model.config.pad_token_id)
    if is_decoder(model.config) and accepts_positions(model):
        inputs["position_ids"] = positions_from_mask(attention_mask)[:, -new:]
    if cache is not None:
        inputs |= {"past_key_values": cache, "use_cache": True}
    if last_only and accepts_keeping(model):
        inputs["logits_to_keep"] = 1
    with inject(hidden):
        logits: Tensor = model(**inputs).logits
    return logits


def start_cache(segment: ServerSegment | nn.Module) -> Cache:
    """An empty key/value cache for decoding token by token with `run_segment`."""
    return DynamicCache(config=unwrap(segment).config)


def unwrap(segment: ServerSegment | nn.Module) -> Any:
    """The task model itself; LoRA layers that PEFT put into it stay in place."""
    model = segment.model if isinstance(segment, ServerSegment) else segment
    inner = getattr(model, "get_base_model", None)
    return inner() if inner is not None else model


def _load(
    source: ModelSource, config: Any, cut: int, task: Task, seed: int, stream: bool
) -> nn.Module:
    outputs = count_block_outputs(config, code=source.code)
    surgery = partial(keep_upper_blocks, layers=count_layers(config), cut=cut, outputs=outputs)
    model: nn.Module = load_weights(
        model_class(config, task, code=source.code),
        source,
        config,
        surgery=surgery,
        wanted=Wanted(may_lack=head_patterns(config, task, code=source.code)),
        stream=stream,
        seed=seed,
    )
    return model.requires_grad_(False)


def keep_upper_blocks(model: nn.Module, *, layers: int, cut: int, outputs: int) -> None:
    """Put slots in the place of blocks 0..cut-1, and drop a token table that only they need."""
    blocks = find_blocks(model, layers).modules
    for index in range(cut):
        blocks[index] = Slot(blocks[index], index, last=index == cut - 1, outputs=outputs)
    drop_embedding(model)


def _linear_paths(block: nn.Module) -> list[str]:
    return [
        path for path, module in block.named_modules() if isinstance(module, nn.Linear | Conv1D)
    ]
