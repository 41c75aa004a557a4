"""Find the layers whose quantized product is far worse than the others', to leave them in fp32.

Each product is tried alone on the rows that a calibration kept: smoothed and coded as on the
device, against float32. A layer is an outlier when its relative error is above FLOOR and above
FACTOR times the model's median. Measured after smoothing, worst layer / median: real MiniLM int8
0.029 / 0.010, 8 bits 0.007 / 0.006, 4 bits 0.083 / 0.064; a small Llama 0.026 / 0.007, 0.014 /
0.006, 0.113 / 0.070: none is one. Channels up to a thousand times larger than the others are none
either, as smoothing cures them (0.99 -> 0.010). What remains is a layer whose large inputs cancel
out in its product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from splitfrozen_export.precision.block_codes import BLOCK, quantize_blocks, restore_blocks
from splitfrozen_export.precision.calibrate import Calibration
from splitfrozen_export.precision.per_token import quantize_weight
from splitfrozen_export.precision.products import Product
from splitfrozen_export.precision.smooth import largest_of_rows, smoothing_factor

FLOOR = 0.05
FACTOR = 3.0

Array = NDArray[np.float32]


def choose_outliers(
    products: Sequence[Product], calibration: Calibration, code: Callable[[Product], str]
) -> frozenset[str]:
    """The layers of `products` that would lose far more than the others: few, or none.

    `code` tells how a product would be coded: `int8`, `8bit` or `4bit`. Layers without rows in
    `calibration` are never chosen.
    """
    errors: dict[str, float] = {}
    for product in products:
        rows = calibration.rows.get(product.layer)
        if rows is not None and product.varies:
            weight = product.weight.read()
            factor = smoothing_factor(calibration.largest[product.layer], largest_of_rows(weight))
            error = product_error(weight * factor[:, None], rows / factor, code(product))
            errors[product.layer] = max(error, errors.get(product.layer, 0.0))
    limit = max(FLOOR, FACTOR * median(errors.values())) if errors else FLOOR
    return frozenset(layer for layer, error in errors.items() if error > limit)


def product_error(weight: Array, rows: Array, code: str) -> float:
    """Relative error of rows [n, K] @ weight [K, M] when both are coded."""
    expected = rows @ weight
    norm = float(np.linalg.norm(expected))
    if code == "int8":
        values, scale = quantize_weight(weight)
        found = (_rounded(rows, rows.shape[1]) @ values.astype(np.float32)) * scale
    else:
        codes = quantize_blocks(weight.T, 4 if code == "4bit" else 8)
        found = _rounded(rows, BLOCK) @ restore_blocks(codes, len(weight)).T
    return float(np.linalg.norm(found - expected)) / norm if norm else 0.0


def _rounded(rows: Array, group: int) -> Array:
    """Rows as int8 with one scale per `group` channels represents them."""
    count, width = rows.shape
    padded = np.zeros((count, -(-width // group), group), np.float32)
    padded.reshape(count, -1)[:, :width] = rows
    scale = np.abs(padded).max(axis=-1, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    result: Array = (np.rint(padded / scale) * scale).reshape(count, -1)[:, :width]
    return result
