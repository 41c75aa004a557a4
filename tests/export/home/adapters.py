"""LoRA adapters as stock PEFT writes them, with random weights that change something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

_CLASSES = {"CAUSAL_LM": AutoModelForCausalLM, "SEQ_CLS": AutoModelForSequenceClassification}


def base_model(model: Path, task: str, num_labels: int = 3) -> Any:
    """The stock model; a head that it lacks is the same every time."""
    labels = {} if task == "CAUSAL_LM" else {"num_labels": num_labels}
    torch.manual_seed(0)
    return _CLASSES[task].from_pretrained(model, **labels).eval()


def write_adapter(
    model: Path,
    directory: Path,
    task: str = "CAUSAL_LM",
    *,
    layers: tuple[int, ...] | None = (2, 3),  # None: wherever the modules are
    num_labels: int = 3,
    **fields: Any,
) -> Path:
    """Write an adapter of rank 4 on every linear layer of `layers` and return `directory`."""
    fields = {"task_type": task, "target_modules": _LINEAR, "r": 4, "lora_alpha": 8} | fields
    torch.manual_seed(1)
    base = base_model(model, task, num_labels)
    config = LoraConfig(
        layers_to_transform=None if layers is None else list(layers),
        fan_in_fan_out=base.config.model_type == "gpt2",
        **fields,
    )
    peft = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if parameter.requires_grad:
                scale = 1.0 if name.endswith("classifier.weight") else 0.02
                parameter.add_(torch.randn_like(parameter) * scale)
    peft.save_pretrained(directory)
    return directory


def stock_answers(model: Path, adapter: Path, task: str = "CAUSAL_LM", num_labels: int = 3) -> Any:
    """The adapter on its base in stock PEFT and Transformers, evaluation mode."""
    return PeftModel.from_pretrained(base_model(model, task, num_labels), adapter).eval()


_LINEAR = [
    *("c_attn", "c_proj", "c_fc"),  # GPT-2
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),  # Llama
    *("query", "key", "value"),  # BERT
]
