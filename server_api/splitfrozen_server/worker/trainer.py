"""One optimizer step on a batch of activations. Knows neither files nor HTTP.

The steps are those of plain AdamW on the mean cross-entropy, so that training through the split
equals training the whole model with its lower blocks frozen. A step's random numbers (LoRA
dropout) are derived from the seed and the step's number alone: there is no generator state to
save, and work of another thread between two steps cannot shift them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from splitfrozen_export.split import run_segment
from splitfrozen_server.worker.batch import Batch
from splitfrozen_server.worker.settings import OptimizerSettings

IGNORED = -100


class NotFiniteError(ArithmeticError):
    """The loss became NaN or infinite; the step was not applied."""


@dataclass(frozen=True)
class StepMetrics:
    """What one step did."""

    step: int  # number of this step, from 1
    loss: float  # mean cross-entropy in nats: per example, or per target token
    learning_rate: float
    examples: int
    targets: int  # examples, or tokens with a target


@dataclass
class TrainState:
    """A model with its LoRA layers attached, and the optimizer over whatever of it trains."""

    model: nn.Module  # PeftModel around the server segment
    task: str
    seed: int
    settings: OptimizerSettings
    steps: int = 0
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            [parameter for _, parameter in self.trained()],
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
        )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        return [item for item in self.model.named_parameters() if item[1].requires_grad]


def step(state: TrainState, batch: Batch, learning_rate: float) -> StepMetrics:
    """Run one AdamW step and count it. Raises NotFiniteError before any weight changes."""
    torch.manual_seed(_step_seed(state.seed, state.steps))
    batch = batch.to(state.device)
    loss = mean_loss(state.model, batch, state.task)
    value = loss.item()
    if not torch.isfinite(loss):
        raise NotFiniteError(f"the loss is {value} at step {state.steps + 1}")
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if state.settings.max_grad_norm is not None:
        parameters = [parameter for _, parameter in state.trained()]
        torch.nn.utils.clip_grad_norm_(parameters, state.settings.max_grad_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.step()
    state.steps += 1
    return StepMetrics(state.steps, value, learning_rate, batch.examples, target_count(batch))


def mean_loss(model: nn.Module, batch: Batch, task: str) -> Tensor:
    """Mean cross-entropy, in the arithmetic of Transformers' own loss functions."""
    logits = run_segment(model, batch.hidden, batch.mask).float()
    if task == "classification":
        assert batch.labels is not None
        return F.cross_entropy(logits, batch.labels)
    assert batch.targets is not None
    return F.cross_entropy(logits.flatten(0, 1), shifted(batch.targets).flatten())


def shifted(targets: Tensor) -> Tensor:
    """[B, T] where position t holds the target of token t + 1, which it predicts."""
    return F.pad(targets, (0, 1), value=IGNORED)[:, 1:].contiguous()


def target_count(batch: Batch) -> int:
    """Predictions that count in the loss: examples, or tokens with a target."""
    if batch.targets is None:
        return batch.examples
    return int((batch.targets[:, 1:] != IGNORED).sum())


def optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    """AdamW's moments and step counts by `<moment>/<parameter>`; empty before the first step."""
    found: dict[str, Tensor] = {}
    for name, parameter in state.trained():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            found[f"{key}/{name}"] = value.detach().cpu().contiguous()
    return found


def restore_optimizer(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave. Raises KeyError if a parameter is not in it."""
    if not tensors:
        return
    for name, parameter in state.trained():
        state.optimizer.state[parameter] = {
            "step": tensors[f"step/{name}"].clone(),  # AdamW keeps this one on the CPU
            "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device, copy=True),
            "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device, copy=True),
        }


def _step_seed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step) % (1 << 63)
