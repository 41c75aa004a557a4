"""One step of ours against stock torch, PEFT and Transformers on the whole model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from splitfrozen.errors import ModelError
from splitfrozen_export.split import prefix_digest, resolve_model
from splitfrozen_server.worker.batch import Batch, pad
from splitfrozen_server.worker.evaluate import evaluate
from splitfrozen_server.worker.job import LeasedJob
from splitfrozen_server.worker.model import AdaptedModel, adapter_tensors, build, check_prefix
from splitfrozen_server.worker.settings import LoraSettings, OptimizerSettings
from splitfrozen_server.worker.trainer import (
    NotFiniteError,
    TrainState,
    optimizer_tensors,
    restore_optimizer,
    step,
)
from tests.worker.shards import (
    CUT,
    Example,
    ShardMaker,
    completion_examples,
    separable_examples,
)

LORA = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=None)
RATE = 1e-2


def optimizer(**changes: float | None) -> OptimizerSettings:
    fields = {"learning_rate": RATE, "weight_decay": 0.01, "max_grad_norm": None} | changes
    return OptimizerSettings(**fields, schedule="constant")


def adapted(model: Path, task: str, **lora: float) -> AdaptedModel:
    settings = LoraSettings(**{**LORA.__dict__, **lora})
    labels = 2 if task == "classification" else None
    return build(resolve_model(model), CUT, task, num_labels=labels, lora=settings, seed=3)


def batch_of(maker: ShardMaker, examples: list[Example], task: str) -> Batch:
    hidden, mask = pad([maker.hidden(example.ids) for example in examples])
    if task == "classification":
        return Batch(hidden, mask, labels=torch.tensor([e.label for e in examples]))
    targets = torch.full(tuple(mask.shape), -100)
    for row, example in enumerate(examples):
        targets[row, : len(example.ids)] = torch.tensor(example.ids)
        targets[row, : example.prompt] = -100
    return Batch(hidden, mask, targets=targets)


def whole_model_inputs(batch: Batch, examples: list[Example]) -> dict[str, Tensor]:
    """What stock Transformers takes for the same batch."""
    ids = torch.zeros_like(batch.mask)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
    labels = batch.labels if batch.targets is None else batch.targets
    return {"input_ids": ids, "attention_mask": batch.mask, "labels": labels}


def train_whole_model(
    model: nn.Module, ours: AdaptedModel, batches: list[dict[str, Tensor]]
) -> tuple[list[float], dict[str, Tensor]]:
    """Stock PEFT on the whole model, starting from the weights that ours starts from."""
    config = ours.model.peft_config["default"]
    config = LoraConfig(**{name: getattr(config, name) for name in CONFIG_FIELDS})
    peft = get_peft_model(model, config).eval()
    start = {name: p.detach().clone() for name, p in ours.model.named_parameters()}
    for name, parameter in peft.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(start[name])
    trained = {name: p for name, p in peft.named_parameters() if p.requires_grad}
    stock = torch.optim.AdamW(trained.values(), lr=RATE)
    losses = []
    for inputs in batches:
        stock.zero_grad()
        loss = peft(**inputs).loss
        loss.backward()
        stock.step()
        losses.append(loss.item())
    return losses, {name: p.detach() for name, p in trained.items()}


CONFIG_FIELDS = (
    "task_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "layers_to_transform",
    "modules_to_save",
    "fan_in_fan_out",
)


@pytest.mark.parametrize("task", ["classification", "causal_lm"])
def test_steps_equal_stock_peft_on_the_whole_model_bit_for_bit(
    task: str, tiny_model: Callable[[str], Path], bert: ShardMaker, llama: ShardMaker
) -> None:
    is_lm = task == "causal_lm"
    path, maker = (tiny_model("llama"), llama) if is_lm else (tiny_model("bert"), bert)
    examples = completion_examples(12) if is_lm else separable_examples(12)
    groups = [examples[start : start + 4] for start in range(0, 12, 4)]
    batches = [batch_of(maker, group, task) for group in groups]
    ours = adapted(path, task)
    auto = AutoModelForCausalLM if is_lm else AutoModelForSequenceClassification
    whole = auto.from_pretrained(path, **({} if is_lm else {"num_labels": 2}))
    inputs = [whole_model_inputs(b, g) for b, g in zip(batches, groups, strict=True)]
    with torch.no_grad():  # the device ran every example alone; here one batch is the reference
        for place, (batch, given) in enumerate(zip(batches, inputs, strict=True)):
            hidden = maker.segment(given["input_ids"], given["attention_mask"])
            batches[place] = Batch(hidden, batch.mask, batch.labels, batch.targets)

    expected, weights = train_whole_model(whole, ours, inputs)
    state = TrainState(ours.model, task, 3, optimizer())
    losses = [step(state, batch, RATE).loss for batch in batches]
    assert losses == expected
    for name, parameter in state.trained():
        assert torch.equal(parameter, weights[name]), name


def test_a_prompt_is_not_trained_on(tiny_model: Callable[[str], Path], llama: ShardMaker) -> None:
    examples = [Example([9, 10, 11, 12, 13], prompt=3)]
    state = TrainState(adapted(tiny_model("llama"), "causal_lm").model, "causal_lm", 0, optimizer())
    metrics = step(state, batch_of(llama, examples, "causal_lm"), RATE)
    assert metrics.targets == 2


def test_a_step_with_dropout_depends_on_seed_and_number_only(
    tiny_model: Callable[[str], Path], bert: ShardMaker
) -> None:
    batch = batch_of(bert, separable_examples(8), "classification")
    results = []
    for disturbed in (False, True):
        model = adapted(tiny_model("bert"), "classification", dropout=0.5).model
        state = TrainState(model, "classification", 3, optimizer())
        losses = []
        for _ in range(3):
            if disturbed:
                torch.rand(7)  # somebody else draws random numbers between two steps
            losses.append(step(state, batch, RATE).loss)
        results.append((losses, adapter_tensors(model)))
    assert results[0][0] == results[1][0]
    for name, tensor in results[0][1].items():
        assert torch.equal(tensor, results[1][1][name])


def test_the_optimizer_is_restored_to_the_bit(
    tiny_model: Callable[[str], Path], bert: ShardMaker
) -> None:
    batch = batch_of(bert, separable_examples(8), "classification")
    model = adapted(tiny_model("bert"), "classification").model
    state = TrainState(model, "classification", 3, optimizer())
    for _ in range(2):
        step(state, batch, RATE)
    fresh = TrainState(model, "classification", 3, optimizer(), steps=2)
    restore_optimizer(fresh, optimizer_tensors(state))
    for name, tensor in optimizer_tensors(state).items():
        assert torch.equal(tensor, optimizer_tensors(fresh)[name])
    assert step(fresh, batch, RATE).step == 3


def test_clipping_bounds_the_first_update(
    tiny_model: Callable[[str], Path], bert: ShardMaker
) -> None:
    batch = batch_of(bert, separable_examples(8), "classification")
    model = adapted(tiny_model("bert"), "classification").model
    state = TrainState(model, "classification", 3, optimizer(max_grad_norm=1e-3))
    step(state, batch, RATE)
    norm = torch.stack([p.grad.norm() for _, p in state.trained()]).norm()
    assert norm <= 1e-3 * 1.001


def test_a_loss_that_is_not_finite_changes_nothing(
    tiny_model: Callable[[str], Path], bert: ShardMaker
) -> None:
    batch = batch_of(bert, separable_examples(4), "classification")
    model = adapted(tiny_model("bert"), "classification").model
    state = TrainState(model, "classification", 3, optimizer())
    before = adapter_tensors(model)
    batch.hidden[0, 0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="step 1"):
        step(state, batch, RATE)
    assert state.steps == 0
    assert all(torch.equal(before[name], t) for name, t in adapter_tensors(model).items())


def test_a_validation_loss_that_is_no_number_is_an_error(
    tiny_model: Callable[[str], Path], bert: ShardMaker
) -> None:
    model = adapted(tiny_model("bert"), "classification").model
    batch = batch_of(bert, separable_examples(2), "classification")
    batch.hidden.fill_(3e38)
    with pytest.raises(NotFiniteError, match="validation loss"):
        evaluate(model, [batch], "classification", step=1, epoch=1.0)


def test_weights_changed_in_place_are_noticed(tiny_model: Callable[[str], Path]) -> None:
    source = resolve_model(tiny_model("bert"))
    right = prefix_digest(source, CUT)
    assert check_prefix(source, leased_job(right)) == right
    assert check_prefix(source, leased_job()) == right  # no shards yet
    with pytest.raises(ModelError, match="were changed") as caught:
        check_prefix(source, leased_job("0" * 64, right))
    assert caught.value.code == "base_model_mismatch"


def leased_job(*prefix_digests: str) -> LeasedJob:
    model = {"name": "tiny", "source": "tiny", "revision": None, "path": "tiny"}
    dataset = {"id": "ds", "name": "set", "labels": []}
    return LeasedJob.parse(
        {
            "id": "ftjob-1",
            "lease": "lease_1",
            "model": {**model, "hidden_size": 32, "trust_remote_code": False},
            "task": "classification",
            "cut": CUT,
            "config": {},
            "training": dataset,
            "validation": None,
            "prefix_digests": prefix_digests,
            "fine_tuned_model": "ft:tiny:set:1",
            "start": None,
            "admissions": [],
        }
    )
