"""The int8 pass over matrix products, on graphs that fit on a screen."""

from __future__ import annotations

import numpy as np
import pytest

from splitfrozen_export.edits import drop_unused
from splitfrozen_export.products import quantize_products, quantize_weight
from tests.export.text_graphs import normal, operators, parse, run

ONE = """
block (float[batch, seq, 48] x) => (float[batch, seq, 20] y) {
    y = MatMul(x, w)
}"""
QUERY_KEY_VALUE = """
block (float[batch, seq, 48] x) => (float[batch, seq, 20] q, float[batch, seq, 20] k) {
    q = MatMul(x, wq)
    k = MatMul(x, wk)
}"""


def reference(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The recipe in numpy, in float64 where it is not integer arithmetic."""
    weight, columns = quantize_weight(w)
    rows = np.maximum(np.abs(x).max(axis=-1, keepdims=True) / np.float32(127), np.float32(1e-30))
    coded = np.rint(x / rows).astype(np.int64)
    return (coded @ weight.astype(np.int64)) * columns.astype(np.float64) * rows


def test_a_product_becomes_an_integer_product_with_one_scale_per_token() -> None:
    model = parse(ONE, w=normal(48, 20))
    assert quantize_products(model) == 1
    drop_unused(model)
    assert operators(model) == [
        *("Abs", "ReduceMax", "Div", "Max", "Reshape", "Reshape", "Shape", "Expand"),
        *("QuantizeLinear", "Shape", "MatMulIntegerToFloat", "Concat", "Reshape", "Mul"),
    ]
    assert set(model.graph.opset_imports) == {"", "com.microsoft"}


def test_the_result_is_the_recipe_s() -> None:
    x, w = normal(3, 7, 48, seed=1), normal(48, 20)
    model = parse(ONE, w=w)
    quantize_products(model)
    (y,) = run(model, x=x)
    np.testing.assert_allclose(y, reference(x, w), rtol=1e-5, atol=1e-5)
    assert np.linalg.norm(y - x @ w) / np.linalg.norm(x @ w) < 0.02


def test_products_of_the_same_input_share_its_quantization() -> None:
    model = parse(QUERY_KEY_VALUE, wq=normal(48, 20), wk=normal(48, 20, seed=1))
    assert quantize_products(model) == 2
    drop_unused(model)
    assert operators(model).count("QuantizeLinear") == 1
    assert operators(model).count("MatMulIntegerToFloat") == 2


def test_the_weights_are_signed_and_the_float_ones_are_gone() -> None:
    model = parse(ONE, w=normal(48, 20))
    quantize_products(model)
    drop_unused(model)
    kinds = {name: value.dtype.name for name, value in model.graph.initializers.items()}
    assert kinds["w_columns_int8"] == "INT8"
    assert "w" not in kinds


def test_a_row_of_zeros_gives_zeros() -> None:
    x = normal(1, 3, 48)
    x[0, 1] = 0
    model = parse(ONE, w=normal(48, 20))
    quantize_products(model)
    (y,) = run(model, x=x)
    assert (y[0, 1] == 0).all()
    assert np.isfinite(y).all()


def test_an_output_channel_of_zeros_gives_zeros() -> None:
    w = normal(48, 20)
    w[:, 4] = 0
    model = parse(ONE, w=w)
    quantize_products(model)
    (y,) = run(model, x=normal(1, 3, 48))
    assert (y[..., 4] == 0).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_token_is_the_same_to_the_bit_beside_any_neighbour(threads: int) -> None:
    model = parse(ONE, w=normal(48, 20))
    quantize_products(model)
    x = normal(4, 9, 48, seed=2)
    x[2] *= 1000  # an outlier in the neighbourhood
    (together,) = run(model, threads=threads, x=x)
    for row in range(4):
        for length in (1, 2, 5, 9):
            (alone,) = run(model, threads=threads, x=x[row : row + 1, :length])
            assert alone[0].tobytes() == together[row, :length].tobytes()


def test_a_transposed_weight_is_found() -> None:
    text = """
    block (float[batch, seq, 48] x) => (float[batch, seq, 20] y) {
        t = Transpose<perm = [1, 0]>(w)
        y = MatMul(x, t)
    }"""
    w, x = normal(20, 48), normal(2, 3, 48)
    model = parse(text, w=w)
    assert quantize_products(model) == 1
    drop_unused(model)
    assert "Transpose" not in operators(model)
    np.testing.assert_allclose(run(model, x=x)[0], reference(x, w.T), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("flipped", [0, 1])
def test_a_gemm_keeps_its_bias(flipped: int) -> None:
    text = f"""
    block (float[tokens, 48] x) => (float[tokens, 20] y) {{
        y = Gemm<transB = {flipped}>(x, w, b)
    }}"""
    w, b, x = normal(48, 20), normal(20, seed=3), normal(6, 48)
    model = parse(text, w=np.ascontiguousarray(w.T) if flipped else w, b=b)
    assert quantize_products(model) == 1
    np.testing.assert_allclose(run(model, x=x)[0], reference(x, w) + b, rtol=1e-5, atol=1e-5)


def test_a_scaled_gemm_is_left_alone() -> None:
    text = """
    block (float[tokens, 48] x) => (float[tokens, 20] y) {
        y = Gemm<alpha = 0.5>(x, w)
    }"""
    assert quantize_products(parse(text, w=normal(48, 20))) == 0


def test_a_product_of_two_activations_is_left_alone() -> None:
    text = """
    block (float[batch, 4, 4] x) => (float[batch, 4, 4] y) {
        y = MatMul(x, x)
    }"""
    model = parse(text)
    assert quantize_products(model) == 0
    assert operators(model) == ["MatMul"]
    assert "com.microsoft" not in model.graph.opset_imports


def test_a_product_that_no_token_reaches_is_not_counted() -> None:
    text = """
    block (float[8, 48] x) => (float[8, 20] y) {
        n = Neg(table)
        fixed = MatMul(n, w)
        own = MatMul(x, w)
        y = Add(own, fixed)
    }"""
    model = parse(text, table=normal(8, 48, seed=4), w=normal(48, 20))
    assert quantize_products(model) == 1
    drop_unused(model)
    assert operators(model).count("MatMulIntegerToFloat") == 2
    assert sum(name.endswith("_int8") for name in model.graph.initializers) == 1


def test_weights_round_half_to_even() -> None:
    w = np.array([[127.0], [0.5], [1.5], [-2.5]], np.float32)
    coded, scale = quantize_weight(w)
    assert scale.tolist() == [1.0]
    assert coded[:, 0].tolist() == [127, 0, 2, -2]
