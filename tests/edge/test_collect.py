"""Batches, stripping of padding, and shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitfrozen import Shard, decode, encode, read_bundle
from splitfrozen.errors import DataError, ManifestError, QuantizeError
from splitfrozen.quantize import encode_hidden
from splitfrozen_edge.data.preprocess import Encoded
from splitfrozen_edge.model.batches import plan_batches
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_edge.pushing.collect import (
    SHARD_BYTES,
    SHARD_EXAMPLES,
    Example,
    Piece,
    ShardBuilder,
    ShardHeader,
    check_fits,
    pad,
    strip,
    without,
)
from tests.edge.tiny_bundle import WIDTH, embedding, write_bundle


def header(codec: str = "int8", task: str = "classification", width: int = WIDTH) -> ShardHeader:
    dataset = "" if task == "inference" else "ds_1"
    return ShardHeader("0" * 64, dataset, 2, codec, task, width)


def example(number: int, ids: list[int], label: str | None = "a") -> Example:
    encoded = Encoded(np.array(ids, np.int32), 1 if label is None else None)
    return Example(number, encoded, number.to_bytes(16, "big"), label)


def compute(
    directory: Path, examples: list[Example], codec: str, task: str = "classification"
) -> list[Piece]:
    session = DeviceSession(read_bundle(directory), threads=1, wire=codec)
    return strip(examples, session.run(*pad(examples)), header(codec, task))


def build(pieces: list[Piece], head: ShardHeader) -> list[Shard]:
    builder = ShardBuilder(head, {"a": 0, "b": 1})
    shards = [shard for piece in pieces for shard in builder.add(piece)]
    return [*shards, *builder.flush()]


@given(st.lists(st.integers(1, 600), max_size=300), st.integers(1, 64))
def test_every_example_is_in_one_batch_within_the_budget(lengths: list[int], window: int) -> None:
    batches = list(plan_batches(lengths, tokens=1024, window=window))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[place] for place in batch) * len(batch) <= 1024
        assert len({place // window for place in batch}) == 1


@pytest.mark.parametrize("codec", ["int8", "bf16", "fp32"])
@pytest.mark.parametrize("with_codec", [True, False])
def test_a_shard_holds_the_activations_without_padding(
    tmp_path: Path, codec: str, with_codec: bool
) -> None:
    bundle = write_bundle(tmp_path / "bundle", with_codec=with_codec)
    examples = [example(1, [5, 6, 7], "b"), example(2, [9]), example(3, [8, 7])]
    (shard,) = build(compute(bundle, examples, codec), header(codec))
    hidden, scale = encode_hidden(codec, embedding()[[5, 6, 7, 9, 8, 7]])
    assert np.array_equal(shard.hidden, hidden)
    assert scale is None or np.array_equal(shard.scale, scale)  # type: ignore[arg-type]
    assert shard.lengths.tolist() == [3, 1, 2]
    assert shard.labels is not None
    assert shard.labels.tolist() == [1, 0, 0]
    assert decode(encode(shard)).tokens == 6


def test_targets_are_unshifted_and_skip_the_prompt(encoder_bundle: Path) -> None:
    examples = [example(1, [5, 6, 7], None), example(2, [9, 8], None)]
    pieces = compute(encoder_bundle, examples, "int8", "causal_lm")
    (shard,) = build(pieces, header("int8", "causal_lm"))
    assert shard.targets is not None
    assert shard.targets.tolist() == [-100, 6, 7, -100, 8]
    assert shard.labels is None


def test_inference_shards_have_no_ids(encoder_bundle: Path) -> None:
    examples = [Example(1, Encoded(np.array([5], np.int32), None))]
    pieces = compute(encoder_bundle, examples, "int8", "inference")
    (shard,) = build(pieces, header("int8", "inference"))
    assert decode(encode(shard)).example_ids is None


@pytest.mark.parametrize("codec", ["int8", "bf16", "fp32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_activations_that_no_codec_carries_are_refused_with_their_line(
    tmp_path: Path, codec: str, value: float
) -> None:
    table = embedding()
    table[7, 3] = value
    bundle = write_bundle(tmp_path / "bundle", table=table)
    examples = [example(4, [5, 6]), example(17, [5, 7])]
    if value == 1e38 and codec != "int8":
        assert compute(bundle, examples, codec)
        return
    with pytest.raises(QuantizeError, match="row at line 17"):
        compute(bundle, examples, codec)


def test_a_graph_of_another_width_is_refused(encoder_bundle: Path) -> None:
    session = DeviceSession(read_bundle(encoder_bundle), threads=1)
    examples = [example(1, [5])]
    with pytest.raises(QuantizeError, match="16 channels; the manifest says 8"):
        strip(examples, session.run(*pad(examples)), header(width=8))


def test_a_file_that_is_no_graph_is_a_manifest_error(tmp_path: Path) -> None:
    import hashlib
    import json

    directory = write_bundle(tmp_path / "bundle")
    (directory / "device.onnx").write_bytes(b"no graph")
    manifest = json.loads((directory / "splitfrozen.json").read_text())
    manifest["files"]["device.onnx"] = {
        "sha256": hashlib.sha256(b"no graph").hexdigest(),
        "size": 8,
    }
    (directory / "splitfrozen.json").write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match="cannot be loaded"):
        DeviceSession(read_bundle(directory))


def fake_pieces(count: int, tokens: int, width: int) -> list[Piece]:
    scale = np.zeros((tokens, -(-width // 64)), np.float16)
    ids = np.ones(tokens, np.int32)
    return [
        Piece(
            Example(i, Encoded(ids, None), i.to_bytes(16, "big"), "a"),
            np.zeros((tokens, width), np.int8),
            scale,
        )
        for i in range(count)
    ]


def test_shards_are_bounded_by_examples() -> None:
    shards = build(fake_pieces(SHARD_EXAMPLES * 2 + 1, 1, 8), header(width=8))
    assert [shard.examples for shard in shards] == [SHARD_EXAMPLES, SHARD_EXAMPLES, 1]


def test_shards_are_bounded_by_bytes() -> None:
    shards = build(fake_pieces(9, 500, 1024), header(width=1024))
    assert sum(shard.examples for shard in shards) == 9
    assert len(shards) > 1
    assert all(len(encode(shard)) <= SHARD_BYTES for shard in shards)


def test_an_example_beyond_the_limit_of_a_body_is_refused_before_it_runs() -> None:
    ids = Encoded(np.ones(512, np.int32), None)
    check_fits(Example(1, ids), header("fp32", width=4000))
    with pytest.raises(DataError, match="--wire int8"):
        check_fits(Example(1, ids), header("fp32", width=4096))
    check_fits(Example(1, ids), header("int8", width=4096))


@given(st.sets(st.integers(0, 5)))
def test_known_examples_leave_a_shard_and_the_rest_stays_as_it_was(known: set[int]) -> None:
    rng = np.random.default_rng(1)
    pieces: list[Piece] = []
    for i in range(6):
        ids = rng.integers(0, 99, i + 1).astype(np.int32)
        hidden: Any = rng.integers(-127, 127, (i + 1, 8)).astype(np.int8)
        made = Example(i, Encoded(ids, 0), i.to_bytes(16, "big"))
        pieces.append(Piece(made, hidden, rng.random((i + 1, 1)).astype(np.float16)))
    head = header("int8", "causal_lm", 8)
    (shard,) = build(pieces, head)
    rest = without(shard, {i.to_bytes(16, "big") for i in known})
    stay = [piece for i, piece in enumerate(pieces) if i not in known]
    if not stay:
        assert rest is None
        return
    assert rest is not None
    assert encode(rest) == encode(build(stay, head)[0])
