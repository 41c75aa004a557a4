"""The decoder against generated bodies: a shard or a WireError, within its limits, never else."""

from __future__ import annotations

import gzip
import json
import struct

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from splitfrozen.errors import SplitFrozenError, WireError
from splitfrozen.wire import Shard, decode, encode
from splitfrozen_server.decoding import Limits, decode_body, decompress
from tests.server.bodies import Maker

LIMITS = Limits(max_body=8 << 20, max_ratio=64)
MAKE = Maker("a" * 64, "ds_1")
BODIES = [MAKE.body(seed, codec=codec) for seed, codec in enumerate(("int8", "bf16", "fp32"))]
ENCODINGS = st.sampled_from(["zstd", "gzip", "identity"])

fuzz = settings(max_examples=300, deadline=None, derandomize=True)


def decoded_or_refused(raw: bytes, encoding: str) -> Shard | None:
    try:
        _, shard = decode_body(raw, encoding, LIMITS, None)
        return shard
    except SplitFrozenError:
        return None


@fuzz
@given(st.binary(max_size=2000), ENCODINGS)
def test_any_bytes(raw: bytes, encoding: str) -> None:
    assert decoded_or_refused(raw, encoding) is None


@fuzz
@given(st.sampled_from(BODIES), st.data())
def test_any_flipped_bytes_give_a_shard_that_encodes_again_or_a_refusal(
    body: bytes, data: st.DataObject
) -> None:
    broken = bytearray(body)
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
        broken[place] = data.draw(st.integers(0, 255))
    shard = decoded_or_refused(bytes(broken), "identity")
    assert shard is None or encode(shard) == bytes(broken)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I8", "I32", "U8", "F16", "U16", "F64"]) | JSON,
        "shape": st.lists(st.integers(-1, 1 << 60), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 1 << 60), max_size=3) | JSON,
    }
)
NAMES = st.sampled_from(["hidden", "lengths", "labels", "example_ids", "scale", "targets", "../x"])


@fuzz
@given(
    st.dictionaries(NAMES, TENSOR | JSON, max_size=6),
    st.sampled_from(["int8", "fp32", "int3"]) | JSON,
    st.binary(max_size=64),
)
def test_any_header(tensors: dict[str, object], codec: object, tail: bytes) -> None:
    metadata = {
        "bundle": "a" * 64,
        "codec": codec,
        "cut": "2",
        "dataset": "d",
        "protocol": "1",
        "task": "classification",
    }
    text = json.dumps({"__metadata__": metadata, **tensors}).encode()
    assert decoded_or_refused(struct.pack("<Q", len(text)) + text + tail, "identity") is None


@fuzz
@given(st.binary(max_size=5000), st.integers(0, 5000), st.sampled_from(["zstd", "gzip"]))
def test_compressed_bytes_come_back_whole_or_are_refused(
    content: bytes, cut: int, encoding: str
) -> None:
    wire = zstandard.compress(content) if encoding == "zstd" else gzip.compress(content)
    assert decompress(wire, encoding, LIMITS) == content
    if cut < len(wire):
        with pytest.raises(WireError, match=r"too early|is not"):
            decompress(wire[:cut], encoding, LIMITS)


@pytest.mark.parametrize("with_size", [True, False])
def test_zstd_bomb_stops_at_the_limit_whatever_size_it_declares(with_size: bool) -> None:
    engine = zstandard.ZstdCompressor(write_content_size=with_size)
    bomb = engine.compress(bytes(256 << 20))
    with pytest.raises(WireError) as caught:
        decompress(bomb, "zstd", LIMITS)
    assert caught.value.code == "too_large"


def test_zstd_window_of_two_gib_is_refused_before_it_is_allocated() -> None:
    frame = bytes.fromhex("28b52ffd") + bytes([0b0000_0000, 21 << 3]) + b"\x01\x00\x00"
    with pytest.raises(WireError) as caught:
        decompress(frame, "zstd", LIMITS)
    assert caught.value.code == "bad_encoding"


def test_skippable_zstd_frames_are_no_body() -> None:
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"abcd"
    with pytest.raises(WireError):
        decode_body(skippable, "zstd", LIMITS, None)


def test_good_bodies_pass_every_encoding() -> None:
    for body in BODIES:
        for encoding, wire in (
            ("identity", body),
            ("gzip", gzip.compress(body)),
            ("zstd", zstandard.compress(body)),
        ):
            found, shard = decode_body(wire, encoding, LIMITS, None)
            assert found == body and encode(shard) == encode(decode(body))
