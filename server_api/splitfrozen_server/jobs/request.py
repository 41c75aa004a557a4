"""What a client may ask of a job: OpenAI's fields, and ours under `splitfrozen`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MAX_SEED = 2**63 - 1
DEFAULT_EPOCHS = 3
DEFAULT_BATCH = {"classification": 32, "causal_lm": 8}  # examples
_SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1, le=2**53)]  # what JSON carries exactly
Epochs = Annotated[int, Field(ge=1, le=10_000)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
Multiplier = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Hyperparameters(_Strict):
    """OpenAI's three; "auto" means our default."""

    n_epochs: Epochs | Auto = "auto"
    batch_size: BatchSize | Auto = "auto"
    learning_rate_multiplier: Multiplier | Auto = "auto"


class Supervised(_Strict):
    """Settings of the only method there is."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Method(_Strict):
    """How to train."""

    type: Literal["supervised"] = "supervised"
    supervised: Supervised = Supervised()


class Lora(_Strict):
    """The adapter's shape."""

    r: Annotated[int, Field(ge=1, le=1024)] = 8
    alpha: Annotated[int, Field(ge=1, le=1_000_000)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Annotated[list[str], Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="suffixes of linear layers; default: all of a block"
    )


class Options(_Strict):
    """What OpenAI's request has no place for."""

    learning_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="default: 1e-3, and 2e-4 for models wider than 1,024"
    )
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="clip gradients to this norm; default: never"
    )
    lora: Lora = Lora()
    min_examples: Count | None = Field(
        default=None, description="start once the dataset has so many examples"
    )
    min_devices: Count | None = Field(
        default=None, description="start once so many devices have pushed"
    )
    min_per_label: Count | None = Field(
        default=None, description="start once every label has so many examples"
    )
    eval_fraction: Annotated[float, Field(ge=0, le=0.9)] = Field(
        default=0.0, description="part of the examples to hold out, chosen by their ids"
    )
    save_every: Count = Field(default=50, description="steps from one checkpoint to the next")


class CreateJob(_Strict):
    """Body of POST /v1/fine_tuning/jobs."""

    model: str = Field(description="name of a registered base model")
    training_file: str = Field(description="id or name of an activation dataset")
    validation_file: str | None = Field(default=None, description="dataset to evaluate on")
    suffix: str | None = Field(default=None, description="part of the adapter's name")
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(
        default=None, description="older place of method.supervised.hyperparameters"
    )
    splitfrozen: Options = Options()
    metadata: dict[str, str] | None = Field(default=None, description="accepted, not used")
    integrations: list[Any] | None = Field(default=None, description="accepted, not used")

    @field_validator("suffix")
    @classmethod
    def _check_suffix(cls, suffix: str | None) -> str | None:
        if suffix is not None and not _SUFFIX.fullmatch(suffix):
            raise ValueError("1 to 64 letters, digits, '.', '_', '-', not led by a sign")
        return suffix


def job_config(request: CreateJob, task: str) -> dict[str, Any]:
    """The configuration that is stored with the job: every default filled in, JSON only."""
    asked = request.hyperparameters or Hyperparameters()
    if request.method is not None:
        asked = request.method.supervised.hyperparameters
    return {
        "seed": request.seed or 0,
        "n_epochs": _or(asked.n_epochs, DEFAULT_EPOCHS),
        "batch_size": _or(asked.batch_size, DEFAULT_BATCH[task]),
        "learning_rate_multiplier": _or(asked.learning_rate_multiplier, 1.0),
        **request.splitfrozen.model_dump(mode="json"),
    }


def _or(value: float | Auto, default: float) -> float:
    return default if value == "auto" else value
