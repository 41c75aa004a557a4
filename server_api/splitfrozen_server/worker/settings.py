"""What a job was asked to do, as read from the job record. Pure; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

SMALL_WIDTH = 1024  # models up to this width take the higher default learning rate


@dataclass(frozen=True)
class LoraSettings:
    """The adapter's shape."""

    r: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...] | None  # None: every linear layer of a block


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW, as torch understands its arguments."""

    learning_rate: float
    weight_decay: float
    max_grad_norm: float | None
    schedule: str  # constant | linear | cosine


@dataclass(frozen=True)
class JobSettings:
    """Everything that shapes a job's result, besides its data."""

    seed: int
    epochs: int
    batch_size: int
    lora: LoraSettings
    optimizer: OptimizerSettings
    eval_fraction: float
    save_every: int  # steps


def parse_settings(config: dict[str, Any], *, hidden_size: int) -> JobSettings:
    """Read the configuration that the API validated and stored with the job."""
    lora = config["lora"]
    targets = lora["target_modules"]
    rate = config["learning_rate"] or default_learning_rate(hidden_size)
    return JobSettings(
        seed=config["seed"],
        epochs=config["n_epochs"],
        batch_size=config["batch_size"],
        lora=LoraSettings(
            r=lora["r"],
            alpha=lora["alpha"],
            dropout=lora["dropout"],
            target_modules=None if targets is None else tuple(targets),
        ),
        optimizer=OptimizerSettings(
            learning_rate=rate * config["learning_rate_multiplier"],
            weight_decay=config["weight_decay"],
            max_grad_norm=config["max_grad_norm"],
            schedule=config["lr_schedule"],
        ),
        eval_fraction=config["eval_fraction"],
        save_every=config["save_every"],
    )


def default_learning_rate(hidden_size: int) -> float:
    """LoRA on small models wants about 1e-3, on large ones less."""
    return 1e-3 if hidden_size <= SMALL_WIDTH else 2e-4


def learning_rate_at(settings: OptimizerSettings, progress: float) -> float:
    """The rate of a step at `progress`: 0 until the seal, then the share of what is left, 0..1."""
    if settings.schedule == "linear":
        return settings.learning_rate * (1 - progress)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return settings.learning_rate
