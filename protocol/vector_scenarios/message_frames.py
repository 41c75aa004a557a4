"""Good shards, and shards whose frame, header or metadata is broken."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

from vector_scenarios.shard_bytes import (
    BUNDLE,
    Vector,
    bad,
    canonical,
    document,
    edited,
    f16,
    f32,
    frame,
    i8,
    i32,
    ids,
    metadata,
    ok,
    shard,
    small,
)


def good_shards() -> Iterator[tuple[str, Vector]]:
    yield "ok_int8_classification", ok("two examples, ragged", small())
    yield (
        "ok_int8_two_groups",
        ok(
            "65 channels: the last group has one",
            small(
                example_ids=("U8", [1, 16], ids(1)),
                hidden=("I8", [1, 65], i8(*range(65))),
                labels=("I32", [1], i32(7)),
                lengths=("I32", [1], i32(1)),
                scale=("F16", [1, 2], f16(1.0, 0.0)),
            ),
        ),
    )
    causal = small(labels=None, targets=("I32", [3], i32(-100, -100, 50256)))
    yield "ok_causal_lm", ok("only the completion's id is a target", causal, task="causal_lm")
    floats = small(hidden=("F32", [3, 1], f32(0.5, -0.0, 1e-45)), scale=None)
    yield "ok_fp32_subnormal", ok("negative zero and the least subnormal", floats, codec="fp32")
    halves = small(hidden=("U16", [3, 1], bytes.fromhex("803f7f7f0080")), scale=None)
    yield "ok_bf16", ok("one, the greatest finite value, negative zero", halves, codec="bf16")
    inference = small(example_ids=None, labels=None)
    yield "ok_inference", ok("no ids, no labels", inference, task="inference", dataset="")
    yield "ok_dataset_dots", ok("an id with every kind of character", small(), dataset="A-b_c.9")


def bad_frames() -> Iterator[tuple[str, Vector]]:
    whole = shard()
    yield "truncated_empty", bad("truncated", "no bytes at all", b"")
    yield "truncated_length", bad("truncated", "seven bytes", whole[:7])
    yield "truncated_header", bad("truncated", "ends inside the header", whole[:60])
    yield "truncated_data", bad("truncated", "one byte short", whole[:-1])
    yield "trailing", bad("trailing", "one byte after the last tensor", whole + b"\0")
    yield (
        "header_too_large",
        bad("header_too_large", "declares 65,537 bytes", struct.pack("<Q", 65537) + whole[8:]),
    )
    yield "header_length_huge", bad("header_too_large", "declares 2^64-1 bytes", b"\xff" * 8)
    for name, text in {
        "bad_header_json": b'{"a":1',
        "bad_header_array": b"[]",
        "bad_header_nan": b'{"__metadata__":NaN}',
        "bad_header_not_ascii": '{"é":1}'.encode(),
        "bad_header_nested": b"[" * 5000,
        "bad_header_long_integer": b'{"a":' + b"1" * 5000 + b"}",
    }.items():
        code = "bad_metadata" if name.endswith("nan") else "bad_header"
        yield name, bad(code, name.replace("_", " "), struct.pack("<Q", len(text)) + text)
    good = canonical(document(metadata(), small()))
    twice = good.rstrip().replace(b'"cut":"3"', b'"cut":"3","cut":"3"')
    yield "duplicate_key_metadata", bad("duplicate_key", "cut twice", frame(twice, small()))
    twice = good.rstrip().replace(b'"labels":', b'"hidden":')
    yield "duplicate_key_tensor", bad("duplicate_key", "hidden twice", frame(twice, small()))
    spaced = json.dumps(document(metadata(), small()), sort_keys=True).encode()
    yield "not_canonical_spaces", bad("not_canonical", "spaces", frame(spaced, small()))
    unsorted = json.dumps(
        dict(reversed(document(metadata(), small()).items())), separators=(",", ":")
    ).encode()
    yield "not_canonical_order", bad("not_canonical", "keys unsorted", frame(unsorted, small()))
    unpadded = good.rstrip() + b" " * (len(good) - len(good.rstrip()) + 8)
    yield "not_canonical_padding", bad("not_canonical", "eight spaces", frame(unpadded, small()))


def bad_metadata() -> Iterator[tuple[str, Vector]]:
    yield (
        "bad_metadata_none",
        bad("bad_metadata", "no metadata", edited(lambda header: header.pop("__metadata__"))),
    )
    yield "bad_metadata_missing", bad("bad_metadata", "no cut", shard(cut=None))
    yield "bad_metadata_extra", bad("bad_metadata", "a field too many", shard(note="x"))
    yield "bad_metadata_number", bad("bad_metadata", "cut as a number", shard(cut=3))
    yield "bad_metadata_cut_zero", bad("bad_metadata", "cut 0", shard(cut="0"))
    yield "bad_metadata_cut_text", bad("bad_metadata", "cut 03", shard(cut="03"))
    yield "bad_metadata_bundle", bad("bad_metadata", "upper case", shard(bundle=BUNDLE.upper()))
    yield "bad_metadata_path", bad("bad_metadata", "path characters", shard(dataset="../x"))
    yield "bad_metadata_newline", bad("bad_metadata", "newline at the end", shard(dataset="x\n"))
    yield "bad_metadata_no_dataset", bad("bad_metadata", "empty dataset", shard(dataset=""))
    yield "unsupported_protocol", bad("unsupported_protocol", "version 2", shard(protocol="2"))
    yield "unknown_codec", bad("unknown_codec", "int3", shard(codec="int3"))
    yield "unknown_task", bad("unknown_task", "vision", shard(task="vision"))
