"""A table that is looked up in and multiplied by is stored once, whatever its coding."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from splitfrozen_export.home.shared_table import share_tables
from splitfrozen_export.precision.quantize import Recipe, apply_precision, default_embedding
from tests.export.text_graphs import normal, parse, run

TIED = """
tied (int64[batch, seq] ids) => (float[batch, seq, 50] logits) {
    words = Gather(table, ids)
    turned = Transpose<perm = [1, 0]>(table)
    logits = MatMul(words, turned)
}"""
UNTIED = """
untied (int64[batch, seq] ids) => (float[batch, seq, 50] logits) {
    words = Gather(table, ids)
    logits = MatMul(words, head)
}"""
IDS = np.array([[0, 3, 9, 1], [9, 49, 1, 7]], np.int64)
TABLE = normal(50, 64)


def coded(text: str, precision: str, **constants: np.ndarray) -> ir.Model:
    model = parse(text, **constants)
    apply_precision(model, Recipe(precision, default_embedding(precision)), products=1)
    return model


def stored_bytes(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("precision", "bits", "limit"),
    [("int8", 8, 0.02), ("int8-hq", 8, 0.02), ("int4-all", 4, 0.15)],
)
def test_one_copy_is_left_and_the_answer_stays(precision: str, bits: int, limit: float) -> None:
    model = coded(TIED, precision, table=TABLE)
    (before,) = run(model, ids=IDS)
    assert share_tables(model) == 1
    (after,) = run(model, ids=IDS)
    expected = TABLE[IDS] @ TABLE.T
    assert np.linalg.norm(after - expected) < limit * np.linalg.norm(expected)
    if precision != "int8-hq":  # there the words change from a code per row to one per block
        assert np.array_equal(after, before)
    scales = 50 * 2 * (4 + 1) + 2 * 50 * 4 + 100
    assert stored_bytes(model) <= TABLE.size * bits / 8 + scales


def test_untied_matrices_stay_apart() -> None:
    model = coded(UNTIED, "int8", table=TABLE, head=normal(64, 50, seed=1))
    before = stored_bytes(model)
    assert share_tables(model) == 0
    assert stored_bytes(model) == before


def test_codes_of_reduced_range_differ_and_stay_apart() -> None:
    model = parse(TIED, table=TABLE)
    apply_precision(model, Recipe("int8", "int8", reduce_range=True), products=1)
    assert share_tables(model) == 0
    run(model, ids=IDS)


def test_a_short_last_block_is_not_looked_up() -> None:
    table = normal(50, 48)
    model = coded(TIED, "int4-all", table=table)
    (before,) = run(model, ids=IDS)
    assert share_tables(model) == 0
    (after,) = run(model, ids=IDS)
    assert np.array_equal(after, before)
