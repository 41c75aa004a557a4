"""A recipe reaches the whole graph or is an error, never a slow and large bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from splitfrozen import SplitFrozenError
from splitfrozen_export.precision.calibrate import Calibration
from splitfrozen_export.precision.quantize import (
    AUTO,
    EMBEDDINGS,
    MAX_ERROR,
    PRECISIONS,
    Coverage,
    Recipe,
    apply_precision,
    default_embedding,
)
from tests.export.text_graphs import normal, operators, parse

SEGMENT = """
segment (int64[batch, seq] ids) => (float[batch, seq, 32] hidden) {
    x = Gather(table, ids)
    q = MatMul(x, query)
    a = Attention(q, q, q)
    o = MatMul(a, out)
    u = MatMul(o, up)
    hidden = MatMul(u, down)
}"""
TABLE_ONLY = """
segment (int64[batch, seq] ids) => (float[batch, seq, 32] hidden) { hidden = Gather(table, ids) }"""
PRODUCT_ONLY = "s (float[batch, seq, 32] x) => (float[batch, seq, 32] y) { y = MatMul(x, w) }"
LAYERS = ("query", "out", "up", "down")


def segment() -> ir.Model:
    weights = {name: normal(32, 32, seed=seed) for seed, name in enumerate(LAYERS)}
    return parse(SEGMENT, table=normal(10, 32), **weights)


def recipe(precision: str, **others: Any) -> Recipe:
    return Recipe(precision, **{"embedding": default_embedding(precision), **others})


def known(*layers: str) -> Calibration:
    rows = {layer: normal(20, 32, seed=4) for layer in layers}
    return Calibration({layer: np.abs(x).max(axis=0) for layer, x in rows.items()}, rows, "")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("int8", {"MatMulIntegerToFloat": 4, "MatMulNBits": 0, "GatherBlockQuantized": 0}),
        ("int8-hq", {"MatMulIntegerToFloat": 0, "MatMulNBits": 4, "GatherBlockQuantized": 1}),
        ("int4", {"MatMulIntegerToFloat": 0, "MatMulNBits": 4, "GatherBlockQuantized": 1}),
        ("int4-all", {"MatMulIntegerToFloat": 0, "MatMulNBits": 4, "GatherBlockQuantized": 1}),
    ],
)
def test_a_precision_replaces_every_product_and_table(
    precision: str, expected: dict[str, int]
) -> None:
    model = segment()
    coverage = apply_precision(model, recipe(precision), products=4)
    assert (coverage.products, coverage.tables, coverage.kept) == (4, 1, ())
    assert {name: operators(model).count(name) for name in expected} == expected
    assert "MatMul" not in operators(model)
    assert all(
        value.dtype != ir.DataType.FLOAT or value.const_value.size < 1000
        for value in model.graph.initializers.values()
    )


def test_int4_codes_attention_in_4_bits_and_the_rest_in_8() -> None:
    model = segment()
    assert apply_precision(model, recipe("int4"), products=4).products_4bit == 2
    bits = [
        node.attributes["bits"].as_int() for node in model.graph if node.op_type == "MatMulNBits"
    ]
    assert bits == [4, 4, 8, 8]


def test_int4_all_codes_everything_in_4_bits() -> None:
    assert apply_precision(segment(), recipe("int4-all"), products=4).products_4bit == 4


def test_fp32_changes_nothing() -> None:
    model = segment()
    assert apply_precision(model, recipe("fp32"), products=4) == Coverage(products=0, tables=0)
    assert operators(model) == operators(segment())


def test_fp32_products_go_with_a_small_table() -> None:
    model = segment()
    coverage = apply_precision(model, recipe("fp32", embedding="int8"), products=0)
    assert (coverage.products, coverage.tables) == (0, 1)
    assert operators(model).count("MatMul") == 4


def test_a_table_may_stay_in_fp32() -> None:
    model = segment()
    assert apply_precision(model, recipe("int8", embedding="fp32"), products=4).tables == 0
    assert "Gather" in operators(model)


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [({"up"}, ("up",)), ({"*o*"}, ("down", "out")), ({"up", "down"}, ("down", "up"))],
)
def test_named_layers_stay_in_fp32(patterns: set[str], kept: tuple[str, ...]) -> None:
    model = segment()
    coverage = apply_precision(model, recipe("int8", keep_fp=frozenset(patterns)), products=4)
    assert coverage.kept == kept
    assert coverage.products == 4 - len(kept)
    assert operators(model).count("MatMul") == len(kept)


def test_a_layer_is_also_named_by_the_end_of_its_path() -> None:
    model = parse(PRODUCT_ONLY, w=normal(32, 32))
    model.graph.initializers["w"].name = "model.h.0.mlp.c_proj.weight"
    choice = recipe("int8", embedding="fp32", keep_fp=frozenset({"c_proj"}))
    with pytest.raises(SplitFrozenError, match="stays in fp32"):
        apply_precision(model, choice, products=1)


def test_a_layer_that_does_not_exist_is_an_error_that_names_those_that_do() -> None:
    with pytest.raises(SplitFrozenError, match=r"'mlp'; there are down, out, query, up") as failed:
        apply_precision(segment(), recipe("int8", keep_fp=frozenset({"mlp"})), products=4)
    assert failed.value.code == "invalid_request"


def test_auto_keeps_what_calibration_shows_and_nothing_else_here() -> None:
    choice = recipe("int8", keep_fp=frozenset({AUTO}), calibration=known(*LAYERS))
    assert apply_precision(segment(), choice, products=4).kept == ()


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "fp32"])
def test_a_calibration_smooths_every_input_of_products(precision: str) -> None:
    coverage = apply_precision(segment(), recipe(precision, calibration=known(*LAYERS)), products=4)
    # the up projection takes the factors of the down projection over, and the output projection
    # those of the up projection; before the others stand a table and the attention
    assert (coverage.smoothed, coverage.multiplied) == (4, 2)


@pytest.mark.parametrize("expected", [0, 3, 5])
@pytest.mark.parametrize("precision", ["int8", "int4-all"])
def test_another_number_of_products_than_torch_runs_is_an_error(
    expected: int, precision: str
) -> None:
    with pytest.raises(SplitFrozenError, match=f"4 of {expected} matrix products") as failed:
        apply_precision(segment(), recipe(precision), products=expected)
    assert failed.value.code == "check_failed"


def test_no_product_at_all_is_an_error() -> None:
    with pytest.raises(SplitFrozenError, match="0 of 0 matrix products"):
        apply_precision(parse(TABLE_ONLY, table=normal(10, 32)), recipe("int8"), products=0)


def test_no_table_is_an_error() -> None:
    with pytest.raises(SplitFrozenError, match="no embedding table"):
        apply_precision(parse(PRODUCT_ONLY, w=normal(32, 32)), recipe("int8"), products=1)


def test_int4_without_attention_is_an_error() -> None:
    choice = recipe("int4", embedding="fp32")
    with pytest.raises(SplitFrozenError, match="no attention product"):
        apply_precision(parse(PRODUCT_ONLY, w=normal(32, 32)), choice, products=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "int3"},
        {"precision": "int8", "embedding": "int2"},
        {"precision": "int4", "reduce_range": True},
        {"precision": "fp32", "keep_fp": frozenset({"up"})},
        {"precision": "fp32", "calibration": known("up")},
        {"precision": "int8", "keep_fp": frozenset({AUTO})},
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SplitFrozenError) as failed:
        Recipe(**{"embedding": "int8", **fields})
    assert failed.value.code == "invalid_request"


def test_progress_counts_products() -> None:
    parts: list[tuple[int, int]] = []
    apply_precision(segment(), recipe("int8"), products=4, on_part=lambda *part: parts.append(part))
    assert parts == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_every_precision_has_a_limit_and_an_embedding() -> None:
    assert set(MAX_ERROR) == set(PRECISIONS)
    assert {default_embedding(precision) for precision in PRECISIONS} == set(EMBEDDINGS)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_graph_gives_the_same_bytes(precision: str) -> None:
    first, second = segment(), segment()
    for model in (first, second):
        apply_precision(model, recipe(precision), products=4)
    assert ir.to_proto(first).SerializeToString() == ir.to_proto(second).SerializeToString()
