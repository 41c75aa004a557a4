"""GPTQ (Frantar et al. 2022): 4-bit codes in blocks of 32, each chosen knowing the inputs.

Column by column of the weight, what rounding one input channel loses is made good by the channels
that are still to come, as the second moments of the inputs say. Scales and zero points are those
of round to nearest, found when a block begins. Plain and slow: for measuring, not for exporting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from splitfrozen_export.measure.batches import Ids
from splitfrozen_export.precision.block_codes import BLOCK, BlockCodes
from splitfrozen_export.precision.products import Product

DAMPING = 0.01  # of the mean of the diagonal, as in the paper
_TOP = 15

Array = NDArray[np.float64]


def second_moments(
    model: ir.Model, products: Sequence[Product], texts: Sequence[Ids]
) -> Mapping[ir.Value, Array]:
    """Sum of x x^T, [K, K], of each input of `products`, with the graph run as it stands."""
    sources = list(dict.fromkeys(product.source for product in products))
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    for source in sources:
        proto.graph.output.add().name = str(source.name)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options)
    sums: dict[ir.Value, Array] = {}
    for ids in texts:
        row = np.array([ids], np.int64)
        found = session.run(None, {"input_ids": row, "attention_mask": np.ones_like(row)})
        for source, values in zip(sources, found, strict=True):
            flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
            sums[source] = sums.get(source, 0.0) + flat.T @ flat
    return sums


def code_columns(weight: NDArray[np.float32], moments: Array) -> BlockCodes:
    """Code float32 [K, M] in 4 bits for inputs with these second moments [K, K]."""
    fill = -len(weight) % BLOCK  # a short last block is filled up with zeros
    rest = np.pad(weight.T.astype(np.float64), ((0, 0), (0, fill)))
    rows, columns = rest.shape
    damping = DAMPING * np.diag(moments).mean() + 1e-12
    damped = np.pad(moments, (0, fill)) + np.eye(columns) * damping
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    codes = np.empty((rows, columns), np.uint8)
    scales = np.empty((rows, columns // BLOCK), np.float32)
    points = np.empty((rows, columns // BLOCK), np.uint8)
    for at in range(columns):
        block = at // BLOCK
        if at % BLOCK == 0:
            scales[:, block], points[:, block] = _grid(rest[:, at : at + BLOCK])
        scale, zero = scales[:, block].astype(np.float64), points[:, block].astype(np.float64)
        divisor = np.where(scale == 0, 1, scale)
        code = np.clip(np.rint(rest[:, at] / divisor) + zero, 0, _TOP)
        codes[:, at] = code
        lost = (rest[:, at] - (code - zero) * scale) / upper[at, at]
        rest[:, at:] -= lost[:, None] * upper[at, at:]
    return BlockCodes(_pack(codes), scales, _pack(points))


def _grid(values: Array) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    low, high = np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0)
    scale = (high - low) / _TOP
    zero = np.clip(np.rint(-low / np.where(scale == 0, 1, scale)), 0, _TOP)
    return scale.astype(np.float32), zero.astype(np.uint8)


def _pack(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two in a byte, the first in the low half."""
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    packed: NDArray[np.uint8] = even[:, ::2] | even[:, 1::2] << np.uint8(4)
    return packed
