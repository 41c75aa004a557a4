"""Activations at the cut <-> what travels (SPEC 3). Pure; defines the rounding of every client.

The int8 codec has one fp16 scale per token and group of 64 channels: a massive activation then
costs precision in its own group only, where one scale per token would erase the token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitfrozen.errors import QuantizeError

Float32 = NDArray[np.float32]

GROUP = 64  # channels that share one scale; the last group of a row may be shorter
CODECS = ("fp32", "bf16", "int8")
_LIMIT = np.float32(127)


def scale_width(hidden_size: int) -> int:
    """Number of scales per token for rows of `hidden_size` channels."""
    return -(-hidden_size // GROUP)


def quantize_int8(hidden: Float32) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Code float32 [tokens, d] as int8 [tokens, d] and float16 scales [tokens, ceil(d/64)].

    Rounds half to even. Raises QuantizeError `not_finite` for NaN, infinity, or a group whose
    scale leaves the range of float16 (an activation above about 8.3 million).
    """
    _require_finite(hidden)
    grouped = _pad_groups(hidden)
    largest = np.abs(grouped).max(axis=2)
    with np.errstate(over="ignore"):
        scale = (largest / _LIMIT).astype(np.float16)
    if not np.isfinite(scale).all():
        raise QuantizeError("not_finite", "an activation is too large for a float16 scale")
    divisor = scale.astype(np.float32)
    divisor[divisor == 0] = 1  # the group rounds to zeros
    coded = np.clip(np.rint(grouped / divisor[:, :, None]), -127, 127).astype(np.int8)
    return coded.reshape(len(hidden), -1)[:, : hidden.shape[1]].copy(), scale


def dequantize_int8(coded: NDArray[np.int8], scale: NDArray[np.float16]) -> Float32:
    """Decode int8 [tokens, d] with float16 scales [tokens, ceil(d/64)] to float32 [tokens, d]."""
    width = coded.shape[1]
    factors = np.repeat(scale.astype(np.float32), GROUP, axis=1)[:, :width]
    return coded.astype(np.float32) * factors


def to_bf16(hidden: Float32) -> NDArray[np.uint16]:
    """Code float32 as bfloat16 bit patterns (uint16), rounding half to even.

    Raises QuantizeError `not_finite`, also for values that round to infinity.
    """
    _require_finite(hidden)
    bits = np.ascontiguousarray(hidden, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    patterns = rounded.astype(np.uint16)
    if not bf16_is_finite(patterns):
        raise QuantizeError("not_finite", "an activation rounds to infinity in bfloat16")
    return patterns


def from_bf16(patterns: NDArray[np.uint16]) -> Float32:
    """Decode bfloat16 bit patterns (uint16) to float32, exactly."""
    return (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bf16_is_finite(patterns: NDArray[np.uint16]) -> bool:
    """Whether no bit pattern is NaN or infinite (all exponent bits set)."""
    return not bool(((patterns & 0x7F80) == 0x7F80).any())


def encode_hidden(codec: str, hidden: Float32) -> tuple[NDArray[Any], NDArray[np.float16] | None]:
    """Code float32 [tokens, d] for the wire; the second value is None without scales."""
    if codec == "int8":
        return quantize_int8(hidden)
    if codec == "bf16":
        return to_bf16(hidden), None
    if codec == "fp32":
        _require_finite(hidden)
        return np.ascontiguousarray(hidden, np.float32), None
    raise QuantizeError("unknown_codec", f"wire codec {codec!r}; known: {', '.join(CODECS)}")


def decode_hidden(
    codec: str, hidden: NDArray[Any], scale: NDArray[np.float16] | None = None
) -> Float32:
    """Decode what `encode_hidden` made to float32 [tokens, d]."""
    if codec == "int8" and scale is not None:
        return dequantize_int8(hidden, scale)
    if codec == "bf16":
        return from_bf16(hidden)
    if codec == "fp32":
        return hidden.astype(np.float32, copy=False)
    raise QuantizeError("unknown_codec", f"wire codec {codec!r}; known: {', '.join(CODECS)}")


def _pad_groups(hidden: Float32) -> Float32:
    tokens, width = hidden.shape
    groups = scale_width(width)
    padded = np.zeros((tokens, groups * GROUP), np.float32)
    padded[:, :width] = hidden
    return padded.reshape(tokens, groups, GROUP)


def _require_finite(hidden: Float32) -> None:
    if not np.isfinite(hidden).all():
        raise QuantizeError("not_finite", "an activation is NaN or infinite")
