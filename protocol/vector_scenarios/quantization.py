"""Activations and what the wire codecs make of them."""

from __future__ import annotations

from collections.abc import Iterator

from vector_scenarios.shard_bytes import Vector, f16, f32, i8


def quantize_vectors() -> Iterator[tuple[str, Vector]]:
    yield from _int8_rounding()
    yield from _int8_scales()
    yield from _int8_not_finite()
    yield from _bf16()
    yield (
        "quantize_codec",
        {
            "expect": "unknown_codec",
            "comment": "no such codec",
            "codec": "int3",
            "width": 1,
            "hidden_f32_hex": "00000000",
        },
    )


def _int8_rounding() -> Iterator[tuple[str, Vector]]:
    ties = (127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5)
    yield (
        "int8_ties",
        _int8(
            "scale 1: exact halves go to the even neighbour",
            f32(*ties),
            f16(1.0),
            i8(127, 0, 2, 2, 0, -2, -2, 126),
            8,
        ),
    )
    yield (
        "int8_zero",
        _int8("all zero: scale 0, no division", f32(0.0, -0.0), f16(0.0), i8(0, 0), 2),
    )
    yield (
        "int8_underflow",
        _int8(
            "the scale rounds to 0: the group becomes zeros",
            f32(1e-6, -1e-6),
            f16(0.0),
            i8(0, 0),
            2,
        ),
    )
    yield (
        "int8_subnormal_scale",
        _int8(
            "the least float16 subnormal as scale",
            f32(127 * 2.0**-24, -(2.0**-24)),
            bytes.fromhex("0100"),
            i8(127, -1),
            2,
        ),
    )
    yield (
        "int8_clip",
        _int8(
            "the scale rounds down, so the largest value is clipped",
            f32(127 * (1 + 2.0**-12), -127 * (1 + 2.0**-12)),
            f16(1.0),
            i8(127, -127),
            2,
        ),
    )


def _int8_scales() -> Iterator[tuple[str, Vector]]:
    """One scale for each group of 64 channels of each token."""
    yield (
        "int8_groups",
        _int8(
            "65 channels: an outlier costs its own group only",
            f32(*[12700.0] + [0.0] * 63 + [1.27]),
            f16(100.0) + f16(0.01),
            i8(*[127] + [0] * 63 + [127]),
            65,
        ),
    )
    yield (
        "int8_two_tokens",
        _int8(
            "each token has its own scale",
            f32(127.0, 1.0, 254.0, 2.0),
            f16(1.0, 2.0),
            i8(127, 1, 127, 1),
            2,
        ),
    )


def _int8_not_finite() -> Iterator[tuple[str, Vector]]:
    for name, bits in {
        "nan": f32(1.0) + bytes.fromhex("0000c07f"),
        "inf": f32(1.0) + bytes.fromhex("0000807f"),
        "scale_overflow": f32(1.0, 9e6),
    }.items():
        yield (
            f"int8_{name}",
            {
                "expect": "not_finite",
                "comment": name,
                "codec": "int8",
                "width": 2,
                "hidden_f32_hex": bits.hex(),
            },
        )


def _bf16() -> Iterator[tuple[str, Vector]]:
    yield (
        "bf16_ties",
        {
            "expect": "ok",
            "comment": "halves go to the even neighbour",
            "codec": "bf16",
            "width": 4,
            "hidden_f32_hex": "0080803f" + "0080813f" + "0180803f" + "00000080",
            "coded_hex": "803f" + "823f" + "813f" + "0080",
        },
    )
    yield (
        "bf16_overflow",
        {
            "expect": "not_finite",
            "comment": "rounds to infinity",
            "codec": "bf16",
            "width": 1,
            "hidden_f32_hex": "ffff7f7f",
        },
    )


def _int8(comment: str, bits: bytes, scale: bytes, coded: bytes, width: int) -> Vector:
    return {
        "expect": "ok",
        "comment": comment,
        "codec": "int8",
        "width": width,
        "hidden_f32_hex": bits.hex(),
        "scale_f16_hex": scale.hex(),
        "coded_hex": coded.hex(),
    }
