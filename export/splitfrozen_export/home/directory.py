"""The files around a graph: configuration, generation settings, tokenizer, record.

What is written is read by Transformers 5, and by 4.5x, which Optimum needs: the two name some
fields differently, so both names are there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PretrainedConfig

from splitfrozen_export.preprocess import TextSide, write_tokenizer
from splitfrozen_export.split import ModelSource

GENERATION = "generation_config.json"
_LABELS = ("id2label", "label2id", "problem_type")
_TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "*.model",
)


def write_config(
    config: PretrainedConfig, directory: Path, *, architecture: str, labels: tuple[str, ...]
) -> None:
    """Write config.json for a model class `architecture`; `labels` by id, empty: not known."""
    fields = config.to_dict()
    fields["architectures"] = [architecture]
    fields.pop("_name_or_path", None)
    if architecture.endswith("ForCausalLM"):
        fields = {name: value for name, value in fields.items() if name not in _LABELS}
    if labels:
        fields["id2label"] = {str(index): name for index, name in enumerate(labels)}
        fields["label2id"] = {name: index for index, name in enumerate(labels)}
    _write_json(directory / "config.json", fields | _older_rotary(fields))


def _older_rotary(fields: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings under the names of Transformers 4."""
    rotary = fields.get("rope_parameters")
    if not isinstance(rotary, dict) or not rotary:
        return {}
    nested = {kind: value for kind, value in rotary.items() if isinstance(value, dict)}
    full = nested.get("full_attention", rotary)
    older: dict[str, Any] = {"rope_theta": full.get("rope_theta", 10000.0)}
    if "sliding_attention" in nested:
        older["rope_local_base_freq"] = nested["sliding_attention"].get("rope_theta")
    if "partial_rotary_factor" in full:
        older |= dict.fromkeys(
            ("partial_rotary_factor", "rotary_pct"), full["partial_rotary_factor"]
        )
    if full.get("rope_type", "default") != "default":
        older["rope_scaling"] = {key: value for key, value in full.items() if key != "rope_theta"}
    return older


def write_generation_config(source: ModelSource, directory: Path) -> None:
    """Write how the model generates: its own settings, or what its configuration implies."""
    own = source.path / GENERATION
    if own.is_file():
        shutil.copyfile(own, directory / GENERATION)
        return
    GenerationConfig.from_model_config(source.config).save_pretrained(directory)


def copy_tokenizer(source: ModelSource, side: TextSide, directory: Path) -> None:
    """Write tokenizer.json, and copy beside it what Transformers reads besides."""
    write_tokenizer(side, directory)
    for pattern in _TOKENIZER_FILES:
        for file in sorted(source.path.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, directory / file.name)
    settings = directory / "tokenizer_config.json"
    fields = json.loads(settings.read_text("utf-8")) if settings.is_file() else {}
    _write_json(settings, _older_tokenizer(fields))


def _older_tokenizer(fields: dict[str, Any]) -> dict[str, Any]:
    """The same settings in words that Transformers 4 knows too."""
    fields = dict(fields)
    if fields.get("tokenizer_class", "TokenizersBackend") == "TokenizersBackend":
        fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(fields.get("extra_special_tokens"), list):
        fields["additional_special_tokens"] = fields.pop("extra_special_tokens")
    fields.pop("backend", None)
    return fields


def _write_json(file: Path, fields: dict[str, Any]) -> None:
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", "utf-8")
