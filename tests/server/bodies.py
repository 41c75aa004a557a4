"""Shards for the tests of ingest: good ones through the codec, broken ones by hand."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from splitfrozen.quantize import encode_hidden
from splitfrozen.wire import Shard, encode

WIDTH = 32


@dataclass(frozen=True)
class Maker:
    """Makes shards of one bundle for one dataset."""

    bundle: str
    dataset: str
    cut: int = 2
    task: str = "classification"

    def shard(self, seed: int, *, examples: int = 4, codec: str = "int8", **changes: Any) -> Shard:
        """A shard whose content is fixed by `seed`."""
        random = np.random.default_rng(seed)
        lengths = random.integers(1, 9, examples).astype(np.int32)
        tokens = int(lengths.sum())
        x = random.standard_normal((tokens, WIDTH)).astype(np.float32)
        hidden, scale = encode_hidden(codec, x)
        fields: dict[str, Any] = {
            "bundle": self.bundle,
            "dataset": self.dataset,
            "cut": self.cut,
            "codec": codec,
            "task": self.task,
            "hidden": hidden,
            "scale": scale,
            "lengths": lengths,
            "example_ids": random.integers(0, 256, (examples, 16), dtype=np.uint8),
        }
        if self.task == "classification":
            fields["labels"] = random.integers(0, 2, examples).astype(np.int32)
        if self.task == "causal_lm":
            fields["targets"] = random.integers(0, 128, tokens).astype(np.int32)
        return Shard(**{**fields, **changes})

    def body(self, seed: int, **changes: Any) -> bytes:
        return encode(self.shard(seed, **changes))

    def parts(self, seed: int) -> tuple[dict[str, str], dict[str, tuple[str, list[int], bytes]]]:
        """Metadata and tensors (dtype, shape, bytes) of a good fp32 shard, to be broken."""
        shard = self.shard(seed, codec="fp32")
        assert shard.labels is not None and shard.example_ids is not None
        metadata = {
            "bundle": self.bundle,
            "codec": "fp32",
            "cut": str(self.cut),
            "dataset": self.dataset,
            "protocol": "1",
            "task": self.task,
        }
        tensors = {
            "example_ids": ("U8", list(shard.example_ids.shape), shard.example_ids.tobytes()),
            "hidden": ("F32", list(shard.hidden.shape), shard.hidden.tobytes()),
            "labels": ("I32", list(shard.labels.shape), shard.labels.tobytes()),
            "lengths": ("I32", list(shard.lengths.shape), shard.lengths.tobytes()),
        }
        return metadata, tensors


def assemble(metadata: dict[str, str], tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """Bytes in the layout of a shard, whatever the content."""
    document: dict[str, Any] = {"__metadata__": metadata}
    place = 0
    for name in sorted(tensors):
        dtype, shape, chunk = tensors[name]
        document[name] = {
            "data_offsets": [place, place + len(chunk)],
            "dtype": dtype,
            "shape": shape,
        }
        place += len(chunk)
    text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensors[n][2] for n in sorted(tensors))
