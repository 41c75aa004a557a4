"""A Llama directory of real size whose weights above the cut are holes in sparse files.

`python -m benchmarks.sparse_model --shape llama-3.1-8b --cut 2 --output DIR` writes config.json, a
small tokenizer, and bf16 safetensors cut into shards like the published ones. Tensors of the
device segment hold random values; all others take no room on the disk and read as zeros.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

SHARD_BYTES = 5_000_000_000  # at most, as Transformers cuts them
_BLOCK = 1 << 22  # values made at a time
_BF16 = 2  # bytes
_LLAMA3 = {
    "model_type": "llama",
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llama-3.1-8b": {
        **_LLAMA3,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": False,
    },
    "llama-3.2-1b": {
        **_LLAMA3,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
}


@dataclass(frozen=True)
class Place:
    """Where one tensor of the model went."""

    name: str  # in the checkpoint
    file: str
    start: int  # absolute, bytes
    size: int  # bytes
    segment: bool  # part of the device segment: not a hole


def write_sparse_model(shape: str, cut: int, directory: Path, *, seed: int = 0) -> list[Place]:
    """Write the model of `shape` into the new `directory`; returns where each tensor lies."""
    directory.mkdir(parents=True)
    fields = {**SHAPES[shape], "dtype": "bfloat16", "architectures": ["LlamaForCausalLM"]}
    (directory / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    _write_tokenizer(directory, fields)
    shapes, _ = _tensors(directory, cut)
    shards = list(_shards(shapes))
    for index, names in enumerate(shards, 1):
        single = len(shards) == 1
        file = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        path = directory / ("model.safetensors" if single else file)
        _write_shard(path, {name: shapes[name] for name in names})
    places = read_places(directory, cut)
    generator = torch.Generator().manual_seed(seed)
    for place in places:
        if place.segment:
            _write_values(directory / place.file, place, shapes[place.name], generator)
    if len(shards) > 1:
        _write_index(directory, places)
    return places


def read_places(directory: Path, cut: int) -> list[Place]:
    """Where the tensors of a model lie that was written with the same cut."""
    _, segment = _tensors(directory, cut)
    places = []
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                start = 8 + length + begin
                places.append(Place(name, path.name, start, end - begin, name in segment))
    return places


def _tensors(directory: Path, cut: int) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Shape of every tensor, in the order of the model, and the names below the cut."""
    from transformers import AutoConfig, LlamaForCausalLM

    from splitfrozen_export.split.probe import device_parameters

    config = AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return shapes, {f"model.{name}" for name in device_parameters(config, cut)}


def _shards(shapes: Mapping[str, Sequence[int]]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        more = math.prod(shape) * _BF16
        if names and size + more > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += more
    yield names


def _write_shard(path: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """The header, and behind it a hole as long as all values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * _BF16
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + offset)


def _write_values(
    path: Path, place: Place, shape: Sequence[int], generator: torch.Generator
) -> None:
    """Weights with the spread that Llama starts its training from; norms near 1."""
    norm = len(shape) == 1
    with path.open("r+b") as file:
        file.seek(place.start)
        left = place.size // _BF16
        while left > 0:
            values = torch.randn(min(left, _BLOCK), generator=generator)
            values = values * 0.1 + 1 if norm else values * 0.02
            file.write(values.bfloat16().view(torch.uint8).numpy().data)
            left -= len(values)


def _write_index(directory: Path, places: Sequence[Place]) -> None:
    index = {
        "metadata": {"total_size": sum(place.size for place in places)},
        "weight_map": {place.name: place.file for place in places},
    }
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2) + "\n")


def _write_tokenizer(directory: Path, fields: Mapping[str, Any]) -> None:
    """One token for each byte; special tokens at the ids of the published model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate(letters)}
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    vocab |= {begin: fields["bos_token_id"], end: fields["eos_token_id"]}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([begin, end])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A",
        pair=f"{begin} $A $B:1",
        special_tokens=[(begin, fields["bos_token_id"])],
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields["max_position_embeddings"],
        "bos_token": begin,
        "eos_token": end,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), required=True)
@click.option("--cut", type=click.IntRange(min=1), required=True, help="blocks with values")
@click.option("--output", type=click.Path(path_type=Path), required=True)
def main(shape: str, cut: int, output: Path) -> None:
    """Write a Llama directory whose weights above the cut are holes."""
    places = write_sparse_model(shape, cut, output)
    total, real = sum(p.size for p in places), sum(p.size for p in places if p.segment)
    click.echo(f"{output}: {total / 1e9:.2f} GB of weights, {real / 1e9:.2f} GB on the disk")


if __name__ == "__main__":
    main()
