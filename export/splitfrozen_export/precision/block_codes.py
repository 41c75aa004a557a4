"""Weights of 4 or 8 bits in blocks of 32 along a row, each block with its own scale.

    value = (code - zero point) * scale

Each block has its own zero point too: a symmetric code wastes a part of its range on values that
do not occur. (Real MiniLM, cut 4, all 4 bits: error 0.170 symmetric, 0.155 with zero points.)
Codes of 4 bits are packed low half first, as MatMulNBits and GatherBlockQuantized read them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitfrozen_export.graph.stored_rows import Rows

BLOCK = 32
_CHUNK = 1 << 22  # values that are coded at a time


@dataclass(frozen=True)
class BlockCodes:
    """A coded matrix [rows, columns]; a short last block is filled up with zeros."""

    packed: NDArray[np.uint8]  # [rows, blocks * 32 * bits / 8]
    scales: NDArray[np.float32]  # [rows, blocks]
    zero_points: NDArray[np.uint8]  # [rows, ceil(blocks * bits / 8)]


def quantize_blocks(matrix: Rows, bits: int) -> BlockCodes:
    """Code float32 [rows, columns] in `bits` (4 or 8), some rows at a time."""
    rows, columns = matrix.shape
    blocks = -(-columns // BLOCK)
    packed = np.empty((rows, blocks * BLOCK * bits // 8), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    points = np.empty((rows, -(-blocks * bits // 8)), np.uint8)
    step = max(1, _CHUNK // (blocks * BLOCK))
    for start in range(0, rows, step):
        piece = slice(start, start + step)
        values = _in_blocks(matrix[piece], blocks)
        codes, scales[piece], zero = _code(values, bits)
        points[piece] = _pack(zero, bits)
        packed[piece] = _pack(codes.reshape(len(codes), -1), bits)
    return BlockCodes(packed, scales, points)


def restore_blocks(codes: BlockCodes, columns: int) -> NDArray[np.float32]:
    """The float32 [rows, columns] that `codes` stand for."""
    rows, blocks = codes.scales.shape
    bits = codes.packed.shape[1] * 8 // (blocks * BLOCK)
    values = _unpack(codes.packed, bits).reshape(rows, blocks, BLOCK).astype(np.float32)
    zero = _unpack(codes.zero_points, bits)[:, :blocks, None].astype(np.float32)
    restored: NDArray[np.float32] = (values - zero) * codes.scales[..., None]
    return restored.reshape(rows, -1)[:, :columns]


def _in_blocks(matrix: NDArray[np.float32], blocks: int) -> NDArray[np.float32]:
    """[rows, columns] -> [rows, blocks, 32]."""
    rows, columns = matrix.shape
    full = np.zeros((rows, blocks * BLOCK), np.float32)
    full[:, :columns] = matrix
    return full.reshape(rows, blocks, BLOCK)


def _code(
    values: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    top = (1 << bits) - 1
    low = np.minimum(values.min(axis=-1), 0)
    high = np.maximum(values.max(axis=-1), 0)
    scale = (high - low) / np.float32(top)
    divisor = np.where(scale == 0, np.float32(1), scale)
    zero = np.clip(np.rint(-low / divisor), 0, top)
    codes = np.clip(np.rint(values / divisor[..., None]) + zero[..., None], 0, top)
    return codes.astype(np.uint8), scale.astype(np.float32), zero.astype(np.uint8)


def _pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """[rows, n] -> [rows, ceil(n * bits / 8)], the first code in the low bits."""
    if bits == 8:
        return codes
    rows, count = codes.shape
    even = np.zeros((rows, count + count % 2), np.uint8)
    even[:, :count] = codes
    packed: NDArray[np.uint8] = even[:, 0::2] | (even[:, 1::2] << 4)
    return packed


def _unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
