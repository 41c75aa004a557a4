"""The precisions of a device graph, each a set of passes over the fp32 graph."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from splitfrozen.errors import SplitFrozenError
from splitfrozen_export.edits import drop_unused
from splitfrozen_export.products import quantize_products
from splitfrozen_export.tables import quantize_tables

# Largest relative error of the activations at the cut that is accepted unless the user says more.
# Measured: fp32 below 1e-6; int8 0.044 and 0.049 (MiniLM, cuts 3 and 4), 0.022 (a small Llama).
MAX_ERROR = {"fp32": 1e-4, "int8": 0.08}
PRECISIONS = tuple(MAX_ERROR)


@dataclass(frozen=True)
class Coverage:
    """How much of a graph a precision changed."""

    products: int  # matrix products with constant weights
    tables: int  # embedding lookups


def apply_precision(model: ir.Model, precision: str, *, products: int) -> Coverage:
    """Bring an fp32 graph to `precision` in place.

    `products` is the number of products that the torch segment runs; SplitFrozenError
    `check_failed` when the pass did not find exactly those, or no embedding table.
    """
    if precision == "fp32":
        return Coverage(0, 0)
    coverage = Coverage(quantize_products(model), quantize_tables(model))
    drop_unused(model)
    _require_coverage(coverage, products)
    return coverage


def _require_coverage(coverage: Coverage, products: int) -> None:
    if coverage.products != products or not products:
        raise SplitFrozenError(
            "check_failed",
            f"int8 reached {coverage.products} of {products} matrix products in the exported "
            "graph; this model's graph has another form: export with --precision fp32",
        )
    if not coverage.tables:
        raise SplitFrozenError(
            "check_failed",
            "int8 found no embedding table in the exported graph; export with --precision fp32",
        )
