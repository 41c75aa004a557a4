"""Shards made straight from the torch device segment: no exporter, no device needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splitfrozen.quantize import encode_hidden
from splitfrozen.wire import Shard
from splitfrozen_export.split import load_device_segment, resolve_model

BUNDLE = "b" * 64
DECODER_BUNDLE = "d" * 64
CUT = 2


@dataclass(frozen=True)
class Example:
    """One labelled or completed token sequence."""

    ids: list[int]
    label: int | None = None
    prompt: int = 0  # tokens without a target (causal_lm)


def separable_examples(count: int, *, labels: int = 2, seed: int = 0) -> list[Example]:
    """Sequences of tokens that only their label uses, four of them each."""
    random = np.random.default_rng(seed)
    examples = []
    width = 4
    for number in range(count):
        label = number % labels
        length = int(random.integers(3, 12))
        low = 8 + label * width
        examples.append(Example(random.integers(low, low + width, length).tolist(), label))
    return examples


def completion_examples(count: int, *, seed: int = 0, vocab: int = 128) -> list[Example]:
    """Counting upwards modulo the vocabulary: the next token follows from the one before."""
    random = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        start, length = int(random.integers(8, vocab)), int(random.integers(4, 12))
        ids = [8 + (start + step) % (vocab - 8) for step in range(length)]
        examples.append(Example(ids, prompt=2))
    return examples


class ShardMaker:
    """The device side of one model: examples in, shards out."""

    def __init__(self, model: Path, *, cut: int = CUT, bundle: str = BUNDLE) -> None:
        self.cut = cut
        self.bundle = bundle
        self.segment = load_device_segment(resolve_model(model), cut)

    def hidden(self, ids: list[int]) -> np.ndarray:
        """float32 [tokens, d] of one example."""
        tokens = torch.tensor([ids])
        with torch.inference_mode():
            found = self.segment(tokens, torch.ones_like(tokens))
        return np.ascontiguousarray(found[0].numpy(), np.float32)

    def shard(
        self,
        examples: Sequence[Example],
        *,
        dataset: str = "ds_test",
        task: str = "classification",
        codec: str = "fp32",
        name: str = "",
    ) -> Shard:
        """One shard of these examples; `name` makes their ids differ from other shards'."""
        rows = np.concatenate([self.hidden(example.ids) for example in examples])
        hidden, scale = encode_hidden(codec, rows)
        lengths = np.array([len(example.ids) for example in examples], np.int32)
        labels = targets = ids = None
        if task == "classification":
            labels = np.array([example.label for example in examples], np.int32)
        if task == "causal_lm":
            targets = np.concatenate([_targets(example) for example in examples])
        if task != "inference":
            ids = np.stack([_id(name, place) for place in range(len(examples))])
        return Shard(
            bundle=self.bundle,
            dataset="" if task == "inference" else dataset,
            cut=self.cut,
            codec=codec,
            task=task,
            hidden=hidden,
            lengths=lengths,
            scale=scale,
            example_ids=ids,
            labels=labels,
            targets=targets,
        )


def _targets(example: Example) -> np.ndarray:
    found = np.array(example.ids, np.int32)
    found[: example.prompt] = -100
    return found


def _id(name: str, place: int) -> np.ndarray:
    digest = hashlib.sha256(f"{name}/{place}".encode()).digest()
    return np.frombuffer(digest[:16], np.uint8)


def push_examples(
    server: Any, maker: ShardMaker, dataset: str, count: int, *, name: str = "a", **device: str
) -> None:
    """Push labelled examples in shards of 16."""
    examples = separable_examples(count, seed=sum(name.encode()))
    for start in range(0, count, 16):
        part = examples[start : start + 16]
        server.push(maker.shard(part, dataset=dataset, name=f"{name}{start}"), **device)
