"""A precision that does not reach the whole graph is an error, never a slow and large bundle."""

from __future__ import annotations

import pytest

from splitfrozen import SplitFrozenError
from splitfrozen_export.quantize import Coverage, apply_precision
from tests.export.text_graphs import normal, operators, parse

SEGMENT = """
segment (int64[batch, seq] ids) => (float[batch, seq, 32] hidden) {
    x = Gather(table, ids)
    hidden = MatMul(x, w)
}"""


def segment():  # type: ignore[no-untyped-def]
    return parse(SEGMENT, table=normal(10, 32), w=normal(32, 32))


def test_int8_reports_what_it_changed() -> None:
    assert apply_precision(segment(), "int8", products=1) == Coverage(products=1, tables=1)


def test_fp32_changes_nothing() -> None:
    model = segment()
    assert apply_precision(model, "fp32", products=1) == Coverage(products=0, tables=0)
    assert operators(model) == ["Gather", "MatMul"]


@pytest.mark.parametrize("expected", [0, 2])
def test_another_number_of_products_than_torch_runs_is_an_error(expected: int) -> None:
    with pytest.raises(SplitFrozenError, match=f"1 of {expected} matrix products") as failed:
        apply_precision(segment(), "int8", products=expected)
    assert failed.value.code == "check_failed"


def test_no_product_at_all_is_an_error() -> None:
    model = parse(SEGMENT.replace("MatMul(x, w)", "Identity(x)"), table=normal(10, 32))
    with pytest.raises(SplitFrozenError, match="0 of 0 matrix products"):
        apply_precision(model, "int8", products=0)


def test_no_table_is_an_error() -> None:
    model = parse(
        "segment (float[batch, seq, 32] x) => (float[batch, seq, 32] y) { y = MatMul(x, w) }",
        w=normal(32, 32),
    )
    with pytest.raises(SplitFrozenError, match="no embedding table"):
        apply_precision(model, "int8", products=1)
