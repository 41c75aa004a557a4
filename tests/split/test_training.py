"""Training through the split is stock PEFT training on the whole model, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor

from splitfrozen_export.split import (
    ServerSegment,
    checkpoint_blocks,
    enable_lora_dropout,
    load_device_segment,
    load_server_segment,
    lora_config,
    resolve_model,
    run_segment,
)
from splitfrozen_export.split.server import Task
from tests.split.inputs import (
    LABELS,
    load_stock,
    make_ids,
    make_mask,
    peft_asks_by_the_old_name,
)

pytestmark = peft_asks_by_the_old_name
STEPS, CUT, INIT_SEED = 20, 2, 7
TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "v_proj", "down_proj"],
    "bert": ["query", "value", "output.dense"],
}
HEADS = {"gpt2": None, "llama": None, "bert": ["pooler"]}  # PEFT adds classifier and score itself
CASES: list[tuple[str, Task]] = [
    ("gpt2", "causal_lm"),
    ("llama", "causal_lm"),
    ("gpt2", "classification"),
    ("llama", "classification"),
    ("bert", "classification"),
]


def batches(config: Any, task: Task) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ids, mask and labels of every step, always in the same order."""
    for step in range(STEPS):
        mask = make_mask("ones" if step % 3 == 0 else "right")
        ids = make_ids(config, mask, seed=step)
        if task == "causal_lm":
            labels = ids.masked_fill(mask == 0, -100)
        else:
            labels = torch.randint(LABELS, (3,), generator=torch.Generator().manual_seed(step))
        yield ids, mask, labels


def train_stock(directory: Path, family: str, task: Task, *, dropout: float = 0.0) -> Any:
    """Stock PEFT: only the blocks above the cut have LoRA, everything else is frozen."""
    model = load_stock(directory, task)
    config = LoraConfig(
        task_type="CAUSAL_LM" if task == "causal_lm" else "SEQ_CLS",
        r=4,
        lora_alpha=8,
        lora_dropout=dropout,
        target_modules=TARGETS[family],
        layers_to_transform=[2, 3],
        modules_to_save=HEADS[family] if task == "classification" else None,
        fan_in_fan_out=family == "gpt2",
    )
    torch.manual_seed(INIT_SEED)
    peft_model = get_peft_model(model, config).eval()
    for module in peft_model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train()
    optimizer = torch.optim.AdamW(trainable(peft_model), lr=1e-2)
    for ids, mask, labels in batches(model.config, task):
        peft_model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return peft_model


def train_split(
    directory: Path, family: str, task: Task, *, dropout: float = 0.0, checkpointing: bool = False
) -> Any:
    """The same steps on activations that a device segment computed once."""
    source = resolve_model(directory)
    device = load_device_segment(source, CUT)
    segment = load_server_segment(source, CUT, task, num_labels=LABELS)
    config = lora_config(segment, r=4, alpha=8, dropout=dropout, target_modules=TARGETS[family])
    torch.manual_seed(INIT_SEED)
    peft_model = get_peft_model(segment.model, config).eval()
    enable_lora_dropout(peft_model, enabled=True)
    if checkpointing:
        checkpoint_blocks(segment)
    optimizer = torch.optim.AdamW(trainable(peft_model), lr=1e-2)
    for ids, mask, labels in batches(segment.model.config, task):
        with torch.no_grad():
            hidden = device(ids, mask)
        loss_of(segment, run_segment(peft_model, hidden, mask), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return peft_model


def loss_of(segment: ServerSegment, logits: Tensor, labels: Tensor) -> Tensor:
    if segment.task == "classification":
        return torch.nn.functional.cross_entropy(logits, labels)
    shifted = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), shifted.flatten(), ignore_index=-100
    )


def trainable(model: Any) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def assert_same_adapter(left: Any, right: Any) -> None:
    ours, theirs = get_peft_model_state_dict(left), get_peft_model_state_dict(right)
    assert list(ours) == list(theirs)
    assert all(bool(ours[name].any()) for name in ours if "lora_B" in name)  # it did learn
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


@pytest.mark.parametrize(("family", "task"), CASES)
def test_twenty_steps_through_the_split_equal_stock_peft_bit_for_bit(
    tiny_model: Callable[[str], Path], family: str, task: Task
) -> None:
    split = train_split(tiny_model(family), family, task)
    assert_same_adapter(split, train_stock(tiny_model(family), family, task))


def test_lora_dropout_draws_the_same_numbers_as_stock_peft(
    tiny_model: Callable[[str], Path],
) -> None:
    split = train_split(tiny_model("llama"), "llama", "causal_lm", dropout=0.2)
    stock = train_stock(tiny_model("llama"), "llama", "causal_lm", dropout=0.2)
    assert_same_adapter(split, stock)


@pytest.mark.parametrize(("family", "task"), [("gpt2", "causal_lm"), ("bert", "classification")])
def test_checkpointing_does_not_change_one_bit(
    tiny_model: Callable[[str], Path], family: str, task: Task
) -> None:
    plain = train_split(tiny_model(family), family, task, dropout=0.2)
    checkpointed = train_split(tiny_model(family), family, task, dropout=0.2, checkpointing=True)
    assert_same_adapter(plain, checkpointed)


def test_only_lora_and_head_are_trained(tiny_model: Callable[[str], Path]) -> None:
    peft_model = train_split(tiny_model("bert"), "bert", "classification")
    names = [name for name, parameter in peft_model.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name or "modules_to_save" in name for name in names)
    heads = {name.split(".modules_to_save")[0].split(".")[-1] for name in names}
    assert {"pooler", "classifier"} <= heads
