"""The README.md of an adapter: front matter that the Hub reads, and text that a person reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitfrozen_server.worker.adapter import AdapterDescription

_PIPELINE = {"classification": "text-classification", "causal_lm": "text-generation"}
_AUTO_CLASS = {
    "classification": "AutoModelForSequenceClassification",
    "causal_lm": "AutoModelForCausalLM",
}


def model_card(description: AdapterDescription, config: dict[str, Any]) -> str:
    """Write the card. Front matter values are JSON, which YAML contains."""
    return "\n".join(
        [
            "---",
            *(f"{key}: {json.dumps(value)}" for key, value in _front(description).items()),
            "---",
            "",
            f"# {description.name}",
            "",
            f"LoRA adapter for `{description.base_model}` ({_task_text(description)}), trained by "
            f"SplitFrozen: devices ran the first {description.cut} blocks, which never change, and "
            "sent activations; the server trained LoRA on the blocks above.",
            "",
            *_facts(description, config),
            "",
            *_usage(description),
            "",
        ]
    )


def _front(description: AdapterDescription) -> dict[str, Any]:
    return {
        "base_model": description.base_model,
        "library_name": "peft",
        "pipeline_tag": _PIPELINE[description.task],
        "tags": ["lora", "splitfrozen"],
        "metrics": sorted(description.metrics),
        "splitfrozen": {
            "bundles": list(description.bundles),
            "cut": description.cut,
            "dataset": description.dataset,
            "labels": list(description.labels),
            "metrics": description.metrics,
            "prefix_digest": description.prefix_digest,
        },
    }


def _task_text(description: AdapterDescription) -> str:
    if description.task == "causal_lm":
        return "causal language modelling"
    return f"classification into {len(description.labels)} labels"


def _facts(description: AdapterDescription, config: dict[str, Any]) -> list[str]:
    layers = config["layers_to_transform"]
    rows = [
        ("Data", f"dataset `{description.dataset}`: {description.examples} examples"),
        ("Training", f"{description.epochs} visits per example, {description.steps} steps"),
        ("LoRA", f"r {config['r']}, alpha {config['lora_alpha']}, blocks {layers}"),
        ("Target modules", ", ".join(f"`{name}`" for name in config["target_modules"])),
        *((name, f"{value:.4f}") for name, value in sorted(description.metrics.items())),
        ("Bundles", ", ".join(f"`{bundle}`" for bundle in description.bundles)),
        ("Prefix digest", f"`{description.prefix_digest}`"),
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _usage(description: AdapterDescription) -> list[str]:
    auto = _AUTO_CLASS[description.task]
    arguments = f'"{description.base_model}"'
    notes: list[str] = []
    if description.base_revision is not None:
        arguments += f', revision="{description.base_revision}"'
    if description.labels:
        arguments += f", num_labels={len(description.labels)}"
        names = ", ".join(f"{i} {name}" for i, name in enumerate(description.labels))
        notes = ["", f"Labels: {names}."]
    return [
        "```python",
        "from peft import PeftModel",
        f"from transformers import {auto}",
        "",
        "# The base model: a Hub id, or the directory that the server knows by this name.",
        f"base = {auto}.from_pretrained({arguments})",
        'model = PeftModel.from_pretrained(base, "path/to/this/directory")',
        "```",
        *notes,
    ]
