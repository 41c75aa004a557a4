"""The precisions of a device graph, each a set of passes over the fp32 graph.

fp32      everything in float32
int8      products per token in int8; SmoothQuant when a calibration is given
int8-hq   products with 8-bit weights in blocks of 32
int4      attention products with 4-bit weights, all others with 8 bits, in blocks of 32
int4-all  products with 4-bit weights in blocks of 32

All but fp32 take SmoothQuant when a calibration is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from splitfrozen.errors import ModelError, SplitFrozenError
from splitfrozen_export.graph.edits import drop_unused
from splitfrozen_export.precision.calibrate import Calibration
from splitfrozen_export.precision.nbits import quantize_nbits
from splitfrozen_export.precision.outliers import choose_outliers
from splitfrozen_export.precision.per_token import (
    FULL_RANGE,
    REDUCED_RANGE,
    Inputs,
    quantize_per_token,
)
from splitfrozen_export.precision.products import (
    MICROSOFT,
    Product,
    attention_products,
    find_products,
)
from splitfrozen_export.precision.smooth import smooth_products
from splitfrozen_export.precision.tables import quantize_tables

# Largest relative error of the activations at the cut that is accepted unless the user says more.
# Measured on held-out text, plain (calibrated): real MiniLM cut 4 and a small Llama cut 2
#   int8      0.049 (0.033)   0.021 (0.020)
#   int8-hq   0.019 (0.015)   0.014 (0.013)
#   int4      0.095 (0.083)   0.102 (0.099)
#   int4-all  0.161 (0.147)   0.151 (0.150)
# Error grows with the cut, so each limit leaves about as much again; fp32 is below 1e-6.
MAX_ERROR = {"fp32": 1e-4, "int8": 0.08, "int8-hq": 0.04, "int4": 0.2, "int4-all": 0.3}
PRECISIONS = tuple(MAX_ERROR)
EMBEDDINGS = ("fp32", "int8", "int4")
_EMBEDDING = {"fp32": "fp32", "int8": "int8", "int8-hq": "int8", "int4": "int4", "int4-all": "int4"}

AUTO = "auto"  # in Recipe.keep_fp: the outliers that calibration shows

OnPart = Callable[[int, int], None]


@dataclass(frozen=True)
class Recipe:
    """How a graph is coded."""

    precision: str
    embedding: str  # of its tables; default_embedding(precision) where the user does not care
    reduce_range: bool = False  # 7-bit weights for x86 without VNNI; int8 only
    keep_fp: frozenset[str] = frozenset()  # layers that stay fp32: names, patterns, or AUTO
    calibration: Calibration | None = None  # SmoothQuant; not with fp32

    def __post_init__(self) -> None:
        """Raise SplitFrozenError `invalid_request` for a recipe that contradicts itself."""
        if self.precision not in PRECISIONS or self.embedding not in EMBEDDINGS:
            raise _unusable(f"unknown precision {self.precision!r} or embedding {self.embedding!r}")
        if AUTO in self.keep_fp and self.calibration is None:
            raise _unusable("outlier layers are found by calibration; give texts to calibrate on")
        if self.precision == "int8":
            return
        if self.reduce_range:
            raise _unusable(f"7-bit weights are for int8 products, not for {self.precision}")
        if self.precision == "fp32" and self.keep_fp:
            raise _unusable("fp32 keeps every layer in fp32 already; leave the names out")
        if self.precision == "fp32" and self.calibration is not None:
            raise _unusable("a calibration smooths quantized products; fp32 has none")


@dataclass(frozen=True)
class Coverage:
    """How much of a graph a recipe changed. Products are those that depend on the tokens."""

    products: int  # quantized
    tables: int  # quantized embedding lookups
    kept: tuple[str, ...] = ()  # layers left in fp32
    products_4bit: int = 0  # those of `products` with 4-bit weights
    smoothed: int = 0  # inputs of products with SmoothQuant
    multiplied: int = 0  # those of `smoothed` that no layer before could take over


def default_embedding(precision: str) -> str:
    """The coding of embedding tables that goes with a precision."""
    return _EMBEDDING[precision]


def apply_precision(
    model: ir.Model, recipe: Recipe, *, products: int, on_part: OnPart | None = None
) -> Coverage:
    """Code an fp32 graph as `recipe` says, in place.

    `products` is the number of products that the torch segment runs. `on_part` is told how many
    products of how many are done. Raises ModelError `invalid_request` for a layer to keep that
    does not exist, and SplitFrozenError `check_failed` when the graph has not exactly `products`
    products, no embedding table to code, or nothing that the precision would code in 4 bits.
    """
    found = find_products(model.graph) if recipe.precision != "fp32" else []
    four_bits = _four_bits(model.graph, recipe, found)
    kept = kept_layers(found, recipe.keep_fp - {AUTO}) | _outliers(found, recipe, four_bits)
    chosen = [product for product in found if product.layer not in kept]
    if recipe.precision != "fp32":
        _require_products(recipe, found, chosen, products)
    smoothed = smooth_products(model.graph, chosen, recipe.calibration)
    chosen = _again(model.graph, chosen)
    inputs = Inputs()
    for done, product in enumerate(chosen, 1):
        _quantize(model.graph, product, recipe, four_bits, inputs)
        if on_part is not None:
            on_part(done, len(chosen))
    if chosen:
        model.graph.opset_imports[MICROSOFT] = 1
    tables = _quantize_tables(model, recipe)
    drop_unused(model)
    coverage = Coverage(
        products=sum(product.varies for product in chosen),
        tables=tables,
        kept=tuple(sorted(kept)),
        products_4bit=sum(product.varies and product.node in four_bits for product in chosen),
        smoothed=smoothed.inputs,
        multiplied=smoothed.multiplied,
    )
    _require_coverage(coverage, recipe)
    return coverage


def _again(graph: ir.Graph, products: Sequence[Product]) -> list[Product]:
    """The same products with the weights and inputs that they have now."""
    nodes = {product.node for product in products}
    return [product for product in find_products(graph) if product.node in nodes]


def kept_layers(products: Sequence[Product], patterns: frozenset[str]) -> frozenset[str]:
    """The layers that `patterns` name: in full, from a dot on (`mlp.c_proj`), or with wildcards.

    Raises ModelError `invalid_request` for a pattern that names none.
    """
    return match_layers({product.layer for product in products}, patterns)


def match_layers(names: Iterable[str], patterns: Iterable[str]) -> frozenset[str]:
    """Those of the layers `names` that `patterns` name; raises what `kept_layers` raises."""
    layers = sorted(names)
    kept: set[str] = set()
    for pattern in sorted(patterns):
        named = [name for name in layers if fnmatchcase(f".{name}", f"*.{pattern}")]
        if not named:
            raise ModelError(
                "invalid_request",
                f"no layer is called {pattern!r}; there are {', '.join(layers)}",
                param="keep_fp",
            )
        kept.update(named)
    return frozenset(kept)


def _four_bits(graph: ir.Graph, recipe: Recipe, found: list[Product]) -> set[ir.Node]:
    if recipe.precision == "int4":
        return attention_products(graph, found)
    return {product.node for product in found} if recipe.precision == "int4-all" else set()


def _outliers(found: list[Product], recipe: Recipe, four_bits: set[ir.Node]) -> frozenset[str]:
    if AUTO not in recipe.keep_fp or recipe.calibration is None:
        return frozenset()

    def code(product: Product) -> str:
        if recipe.precision == "int8":
            return "int8"
        return "4bit" if product.node in four_bits else "8bit"

    return choose_outliers(found, recipe.calibration, code)


def _quantize(
    graph: ir.Graph,
    product: Product,
    recipe: Recipe,
    four_bits: set[ir.Node],
    inputs: Inputs,
) -> None:
    if recipe.precision == "int8":
        limit = REDUCED_RANGE if recipe.reduce_range else FULL_RANGE
        quantize_per_token(graph, product, inputs, limit=limit)
    else:
        quantize_nbits(graph, product, 4 if product.node in four_bits else 8)


def _quantize_tables(model: ir.Model, recipe: Recipe) -> int:
    if recipe.embedding == "fp32":
        return 0
    return quantize_tables(model, recipe.embedding, blocks=recipe.precision == "int8-hq")


def _require_products(
    recipe: Recipe, found: list[Product], chosen: list[Product], products: int
) -> None:
    count = sum(product.varies for product in found)
    if count != products or not count:
        raise SplitFrozenError(
            "check_failed",
            f"{recipe.precision} found {count} of {products} matrix products in the exported "
            "graph; this model's graph has another form: export with --precision fp32",
        )
    if not any(product.varies for product in chosen):
        raise SplitFrozenError(
            "check_failed",
            f"every one of the {count} matrix products stays in fp32, so {recipe.precision} "
            "would change nothing: keep fewer layers, or export with --precision fp32",
        )


def _require_coverage(coverage: Coverage, recipe: Recipe) -> None:
    if recipe.embedding != "fp32" and not coverage.tables:
        raise SplitFrozenError(
            "check_failed",
            f"{recipe.embedding} found no embedding table in the exported graph; export with "
            "--embedding fp32",
        )
    if recipe.precision == "int4" and not coverage.products_4bit:
        raise SplitFrozenError(
            "check_failed",
            "int4 found no attention product to code in 4 bits; export with --precision int8-hq "
            "or int4-all",
        )


def _unusable(reason: str) -> SplitFrozenError:
    return SplitFrozenError("invalid_request", reason)
