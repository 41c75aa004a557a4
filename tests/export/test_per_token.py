"""Products in int8 with one scale per token, on graphs that fit on a screen."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from splitfrozen_export.graph.edits import drop_unused
from splitfrozen_export.precision.per_token import (
    REDUCED_RANGE,
    Inputs,
    quantize_per_token,
    quantize_weight,
)
from splitfrozen_export.precision.products import MICROSOFT, find_products
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


GELU = """
block (float[batch, seq, 48] x) => (float[batch, seq, 20] y) {
    g = Gelu(x)
    m = MatMul(g, w)
    y = Add(m, b)
}"""


def quantize_products(model: ir.Model, limit: int = 127) -> int:
    """Code every product of a graph; how many there were."""
    products = find_products(model.graph)
    inputs = Inputs()
    for product in products:
        quantize_per_token(model.graph, product, inputs, limit=limit)
    if products:
        model.graph.opset_imports[MICROSOFT] = 1
    return len(products)


def gelu(x: np.ndarray) -> np.ndarray:
    erf = np.vectorize(math.erf)
    return (x * 0.5 * (1 + erf(x / math.sqrt(2)))).astype(np.float32)


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
        *("Shape", "Abs", "ReduceMax", "Div", "Max", "Reshape", "Reshape", "Shape", "Expand"),
        *("QuantizeLinear", "MatMulIntegerToFloat", "Concat", "Reshape", "Mul"),
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


def test_inputs_of_the_same_extent_share_the_arithmetic_on_their_shape() -> None:
    model = parse(
        """
        block (float[batch, seq, 48] x) => (float[batch, seq, 48] y) {
            m = MatMul(x, wq)
            t = Tanh(m)
            y = MatMul(t, wk)
        }""",
        wq=normal(48, 48),
        wk=normal(48, 48, seed=1),
    )
    for value in [node.outputs[0] for node in model.graph]:
        value.shape = model.graph.inputs[0].shape
    x, plain = normal(3, 7, 48), model.clone()
    assert quantize_products(model) == 2
    drop_unused(model)
    assert [operators(model).count(name) for name in ("Shape", "Concat", "Expand")] == [2, 1, 1]
    quantize_products(forget_shapes(plain))
    np.testing.assert_array_equal(run(model, x=x)[0], run(plain, x=x)[0])


def forget_shapes(model: ir.Model) -> ir.Model:
    for node in model.graph:
        node.outputs[0].shape = None
    return model


def test_the_weights_are_signed_and_the_float_ones_are_gone() -> None:
    model = parse(ONE, w=normal(48, 20))
    quantize_products(model)
    drop_unused(model)
    kinds = {name: value.dtype.name for name, value in model.graph.initializers.items()}
    assert kinds["w_int8"] == "INT8"
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


def test_weights_round_half_to_even() -> None:
    w = np.array([[127.0], [0.5], [1.5], [-2.5]], np.float32)
    coded, scale = quantize_weight(w)
    assert scale.tolist() == [1.0]
    assert coded[:, 0].tolist() == [127, 0, 2, -2]


def test_what_comes_out_of_gelu_is_coded_in_all_255_steps() -> None:
    w, b, x = normal(48, 20), normal(20, seed=1), normal(4, 9, 48, seed=2)
    coded, scale = quantize_weight(w)
    expected = gelu(x) @ (coded * scale) + b  # so that only the coding of the input counts
    symmetric = reference(gelu(x), w) + b
    model = parse(GELU, w=w, b=b)
    quantize_products(model)
    drop_unused(model)
    assert operators(model).count("Add") == 2  # the lift, and the bias that takes it off again
    assert "Abs" not in operators(model)
    lifted = run(model, x=x)[0]
    assert np.linalg.norm(lifted - expected) < 0.6 * np.linalg.norm(symmetric - expected)


def test_a_product_without_bias_gets_one_for_the_lift() -> None:
    text = GELU.replace("y = Add(m, b)", "y = Identity(m)")
    w, x = normal(48, 20), normal(4, 9, 48, seed=2)
    model = parse(text, w=w)
    quantize_products(model)
    expected = gelu(x) @ w
    assert np.linalg.norm(run(model, x=x)[0] - expected) / np.linalg.norm(expected) < 0.02


@pytest.mark.parametrize("activation", ["Gelu", "Relu"])
def test_a_lifted_token_is_the_same_to_the_bit_beside_any_neighbour(activation: str) -> None:
    model = parse(GELU.replace("Gelu", activation), w=normal(48, 20), b=normal(20, seed=1))
    quantize_products(model)
    x = normal(3, 7, 48, seed=2)
    x[1] *= 1000
    x[2, 3] = -100  # nothing is left of it
    (together,) = run(model, x=x)
    for row in range(3):
        (alone,) = run(model, x=x[row : row + 1, :4])
        assert alone[0].tobytes() == together[row, :4].tobytes()


@given(
    arrays(np.float32, (6, 5), elements=st.floats(-1e6, 1e6, width=32)),
    st.sampled_from([127, REDUCED_RANGE]),
)
def test_a_coded_weight_is_within_half_a_step(weight: np.ndarray, limit: int) -> None:
    coded, scale = quantize_weight(weight, limit)
    assert np.abs(coded.astype(int)).max() <= limit
    restored = coded.astype(np.float64) * scale
    assert (np.abs(restored - weight) <= 0.5001 * scale + 1e-30).all()


def test_seven_bit_weights_never_reach_the_limit_of_older_x86() -> None:
    """Two products of uint8 and int8 are added in int16 there."""
    coded, _scale = quantize_weight(normal(48, 20), REDUCED_RANGE)
    assert 2 * 255 * int(np.abs(coded.astype(int)).max()) < 2**15


def test_large_matrices_are_coded_in_pieces_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(50, 7)
    whole = quantize_weight(weight)
    monkeypatch.setattr("splitfrozen_export.precision.per_token._CHUNK", 3 * 7)
    pieces = quantize_weight(weight)
    assert [array.tobytes() for array in pieces] == [array.tobytes() for array in whole]
