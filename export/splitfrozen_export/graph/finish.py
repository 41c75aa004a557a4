"""From a traced fp32 graph to what a device runs: fused, in its precision, ending in its codec."""

from __future__ import annotations

import onnx_ir as ir

from splitfrozen_export.graph.fuse import fuse_graph
from splitfrozen_export.graph.steady import steady_graph
from splitfrozen_export.graph.wire_codec import append_int8_codec
from splitfrozen_export.precision.census import count_products
from splitfrozen_export.precision.quantize import Coverage, OnPart, Recipe, apply_precision
from splitfrozen_export.split import DeviceSegment


def finish_graph(
    model: ir.Model,
    segment: DeviceSegment,
    recipe: Recipe,
    *,
    wire: str,
    products: int | None = None,
    on_part: OnPart | None = None,
) -> Coverage:
    """Run all passes over a traced graph whose first output is `hidden`, in place.

    `products` is the number of linear layers that one call of the segment runs; it is counted
    where the caller does not know it. Raises what `apply_precision` raises.
    """
    if products is None:
        products = 0 if recipe.precision == "fp32" else count_products(segment)
    fuse_graph(model)
    coverage = apply_precision(model, recipe, products=products, on_part=on_part)
    if recipe.precision == "int8":
        steady_graph(model)
    if wire == "int8":
        _append_codec(model)
    return coverage


def _append_codec(model: ir.Model) -> None:
    """Let the coded outputs stand right behind `hidden`, before keys, values or single blocks."""
    others = list(model.graph.outputs[1:])
    del model.graph.outputs[1:]
    append_int8_codec(model, channels(model))
    model.graph.outputs.extend(others)


def channels(model: ir.Model) -> int:
    """Width of the activations at the cut."""
    shape = model.graph.outputs[0].shape
    width = None if shape is None else shape[-1]
    assert isinstance(width, int)
    return width
