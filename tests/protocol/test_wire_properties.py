"""Properties of the wire that must hold for every shard and every byte string."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitfrozen import Shard, SplitFrozenError, decode, encode, example_id
from splitfrozen.quantize import CODECS, GROUP, decode_hidden, encode_hidden

VECTORS = Path(__file__).resolve().parents[2] / "protocol" / "vectors"
GOOD = [
    bytes.fromhex(json.loads(path.read_text())["wire_hex"])
    for path in sorted((VECTORS / "message").glob("ok_*.json"))
]
floats = st.floats(-1e6, 1e6, width=32)


@st.composite
def shards(draw: st.DrawFn) -> Shard:
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    width, tokens = draw(st.integers(1, 150)), sum(lengths)
    codec = draw(st.sampled_from(CODECS))
    task = draw(st.sampled_from(["classification", "causal_lm", "inference"]))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    hidden, scale = encode_hidden(codec, rng.normal(size=(tokens, width)).astype(np.float32))
    extra: dict[str, Any] = {}
    if task != "inference":
        extra["example_ids"] = rng.integers(0, 256, (len(lengths), 16), np.uint8)
    if task == "classification":
        extra["labels"] = rng.integers(0, 9, len(lengths), np.int32)
    if task == "causal_lm":
        extra["targets"] = rng.integers(0, 99, tokens, np.int32)
    return Shard(
        bundle="ab" * 32,
        dataset="" if task == "inference" else "ds_1",
        cut=draw(st.integers(1, 99)),
        codec=codec,
        task=task,
        hidden=hidden,
        scale=scale,
        lengths=np.array(lengths, np.int32),
        **extra,
    )


@given(shards())
def test_what_is_encoded_is_decoded_and_encodes_to_the_same_bytes(shard: Shard) -> None:
    body = encode(shard)
    again = decode(body)
    assert encode(again) == body
    assert np.array_equal(again.activations(), shard.activations())
    assert (again.examples, again.tokens) == (shard.examples, shard.tokens)


@settings(max_examples=400)
@given(st.sampled_from(GOOD), st.data())
def test_a_damaged_body_is_refused_or_still_canonical(body: bytes, data: st.DataObject) -> None:
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for candidate in (bytes(damaged), bytes(damaged[:cut])):
        try:
            shard = decode(candidate)
        except SplitFrozenError:
            continue
        assert encode(shard) == candidate


@given(st.binary(max_size=300))
def test_random_bytes_never_raise_anything_else(body: bytes) -> None:
    with pytest.raises(SplitFrozenError):
        decode(body)


@given(st.lists(floats, min_size=1, max_size=200))
def test_int8_errs_by_at_most_half_a_step_of_its_group(values: list[float]) -> None:
    hidden = np.array([values], np.float32)
    coded, scale = encode_hidden("int8", hidden)
    assert scale is not None
    step = np.repeat(scale.astype(np.float32), GROUP, axis=1)[:, : hidden.shape[1]]
    error = np.abs(decode_hidden("int8", coded, scale) - hidden)
    # The scale itself is rounded to float16: 127 steps may be 0.05 % short of the maximum.
    assert (error <= step * 0.5 + np.abs(hidden) * 2**-10 + 4e-6).all()


@given(st.lists(floats, min_size=1, max_size=200))
def test_fp32_is_exact_and_bf16_keeps_eight_bits(values: list[float]) -> None:
    hidden = np.array([values], np.float32)
    exact, _ = encode_hidden("fp32", hidden)
    assert np.array_equal(decode_hidden("fp32", exact), hidden)
    coded, _ = encode_hidden("bf16", hidden)
    error = np.abs(decode_hidden("bf16", coded) - hidden)
    assert (error <= np.abs(hidden) * 2**-8 + 1e-38).all()


def test_an_example_id_depends_on_key_dataset_row_and_occurrence_and_on_nothing_else() -> None:
    row = {"text": "grüß dich", "label": "1"}
    base = example_id(b"k" * 32, "ds_1", row, 0)
    assert len(base) == 16
    assert base == example_id(b"k" * 32, "ds_1", dict(reversed(row.items())), 0)
    others = {
        example_id(b"x" * 32, "ds_1", row, 0),
        example_id(b"k" * 32, "ds_2", row, 0),
        example_id(b"k" * 32, "ds_1", {**row, "label": "0"}, 0),
        example_id(b"k" * 32, "ds_1", row, 1),
    }
    assert len(others | {base}) == 5


def test_a_shard_larger_than_the_limit_is_refused_before_it_is_sent() -> None:
    tokens = 3000
    shard = Shard(
        bundle="ab" * 32,
        dataset="",
        cut=1,
        codec="fp32",
        task="inference",
        hidden=np.zeros((tokens, 768), np.float32),
        lengths=np.array([tokens], np.int32),
    )
    with pytest.raises(SplitFrozenError) as refusal:
        encode(shard)
    assert refusal.value.code == "too_large"
