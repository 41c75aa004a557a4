"""Shards whose tensors or values are broken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vector_scenarios.shard_bytes import (
    Vector,
    bad,
    edited,
    f16,
    f32,
    i8,
    i32,
    ids,
    metadata,
    shard,
    small,
)


def bad_tensors() -> Iterator[tuple[str, Vector]]:
    yield from _names()
    yield from _entries()
    yield from _shapes()
    yield from _offsets()


def _names() -> Iterator[tuple[str, Vector]]:
    extra = small(mask=("I8", [1], i8(1)))
    yield "unknown_tensor", bad("unknown_tensor", "a mask", shard(extra))
    pathlike = small(**{"../../x": ("I8", [1], i8(1))})
    yield "unknown_tensor_path", bad("unknown_tensor", "a path as a name", shard(pathlike))
    yield (
        "unknown_tensor_targets",
        bad(
            "unknown_tensor",
            "targets of another task",
            shard(small(targets=("I32", [3], i32(1, 2, 3)))),
        ),
    )
    yield "missing_tensor_scale", bad("missing_tensor", "no scale", shard(small(scale=None)))
    yield "missing_tensor_labels", bad("missing_tensor", "no labels", shard(small(labels=None)))


def _entries() -> Iterator[tuple[str, Vector]]:
    yield (
        "bad_dtype_unknown",
        bad(
            "bad_dtype",
            "F64 is outside the profile",
            edited(lambda h: h["labels"].update(dtype="F64")),
        ),
    )
    yield (
        "bad_dtype_hidden",
        bad("bad_dtype", "U8 for int8", shard(small(hidden=("U8", [3, 3], bytes(9))))),
    )
    yield (
        "bad_header_fields",
        bad("bad_header", "a field too many", edited(lambda h: h["labels"].update(x=1))),
    )


def _shapes() -> Iterator[tuple[str, Vector]]:
    for name, shape in {
        "rank_zero": [],
        "rank_three": [2, 1, 1],
        "negative": [-2],
        "bool": [True],
        "overflow": [2**53],
        "float": [2.0],
        "disagrees": [3],
    }.items():
        wire = edited(lambda h, shape=shape: h["labels"].update(shape=shape))  # type: ignore[misc]
        yield f"bad_shape_{name}", bad("bad_shape", f"labels of shape {shape}", wire)
    yield (
        "bad_shape_no_channels",
        bad(
            "bad_shape",
            "no channels",
            shard(small(hidden=("I8", [3, 0], b""), scale=("F16", [3, 0], b""))),
        ),
    )
    yield (
        "bad_shape_scale",
        bad(
            "bad_shape",
            "two groups for three channels",
            shard(small(scale=("F16", [3, 2], f16(*[1.0] * 6)))),
        ),
    )
    yield (
        "bad_shape_ids",
        bad("bad_shape", "ids of 8 bytes", shard(small(example_ids=("U8", [2, 8], bytes(16))))),
    )
    yield (
        "bad_shape_labels",
        bad("bad_shape", "three labels for two", shard(small(labels=("I32", [3], i32(0, 1, 0))))),
    )


def _offsets() -> Iterator[tuple[str, Vector]]:
    yield (
        "bad_offsets_hole",
        bad(
            "bad_offsets",
            "a hole of one byte",
            edited(lambda h: h["scale"].update(data_offsets=[58, 64])),
        ),
    )
    yield (
        "bad_offsets_three",
        bad(
            "bad_offsets",
            "three numbers",
            edited(lambda h: h["scale"].update(data_offsets=[0, 1, 2])),
        ),
    )
    yield (
        "bad_offsets_swapped",
        bad(
            "bad_offsets",
            "lengths share the place of labels",
            edited(lambda h: h["lengths"].update(data_offsets=h["labels"]["data_offsets"])),
        ),
    )


def bad_values() -> Iterator[tuple[str, Vector]]:
    for name, lengths in {"zero": (0, 3), "negative": (-1, 4), "sum": (1, 1)}.items():
        yield (
            f"bad_lengths_{name}",
            bad(
                "bad_lengths",
                f"lengths {lengths}",
                shard(small(lengths=("I32", [2], i32(*lengths)))),
            ),
        )
    for name, bits in {"nan": "007e", "inf": "007c", "negative": "00bc"}.items():
        yield (
            f"not_finite_scale_{name}",
            bad(
                "not_finite",
                f"scale {name}",
                shard(small(scale=("F16", [3, 1], f16(1.0, 1.0) + bytes.fromhex(bits)))),
            ),
        )
    for name, bits in {"nan": "0000c07f", "inf": "000080ff"}.items():
        floats = small(hidden=("F32", [3, 1], f32(1.0, 1.0) + bytes.fromhex(bits)), scale=None)
        yield f"not_finite_fp32_{name}", bad("not_finite", name, shard(floats, codec="fp32"))
    halves = small(hidden=("U16", [3, 1], bytes.fromhex("803f803fc07f")), scale=None)
    yield "not_finite_bf16", bad("not_finite", "a bf16 NaN", shard(halves, codec="bf16"))
    yield (
        "label_negative",
        bad("label_out_of_range", "label -1", shard(small(labels=("I32", [2], i32(-1, 0))))),
    )
    causal = small(labels=None, targets=("I32", [3], i32(-100, -1, 5)))
    yield "target_negative", bad("token_out_of_range", "target -1", shard(causal, task="causal_lm"))
    yield (
        "duplicate_in_shard",
        bad(
            "duplicate_in_shard",
            "the same id twice",
            shard(small(example_ids=("U8", [2, 16], ids(1) * 2))),
        ),
    )


def two_faults() -> Iterator[tuple[str, Vector]]:
    """Two rules are broken at once: the code is that of the earlier one (SPEC 2.4)."""

    def wrong(labels: dict[str, Any], **changes: str) -> bytes:
        def change(header: dict[str, Any]) -> None:
            header["__metadata__"] = metadata(**changes)
            header["labels"].update(labels)

        return edited(change)

    shape, dtype = {"shape": [3]}, {"dtype": "F64"}
    yield (
        "two_faults_protocol_before_form",
        bad("unsupported_protocol", "version 2; labels disagree", wrong(shape, protocol="2")),
    )
    yield (
        "two_faults_codec_before_form",
        bad("unknown_codec", "int3; F64 is outside the profile", wrong(dtype, codec="int3")),
    )
    yield (
        "two_faults_cut_before_form",
        bad("bad_metadata", "cut 0; labels with a field too many", wrong({"x": 1}, cut="0")),
    )
    nameless = small(mask=("I8", [2], i8(1)), labels=None)
    yield (
        "two_faults_form_before_names",
        bad("bad_shape", "a mask that disagrees; no labels", shard(nameless)),
    )
    mixed = small(lengths=("I32", [2], i32(1, 1)), scale=("F16", [3, 1], bytes.fromhex("007e" * 3)))
    yield "two_faults_lengths_before_values", bad("bad_lengths", "and a NaN", shard(mixed))


def too_large() -> Iterator[tuple[str, Vector]]:
    """Bodies that would be megabytes: the vector says how often the last byte is repeated."""
    vector = bad("too_large", "8 MiB and one byte", b"\0")
    vector["repeat_last"] = 8 * 1024 * 1024 + 1
    yield "too_large", vector
