"""SmoothQuant moves outliers into the weights; in float32 it changes nothing but rounding."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from splitfrozen_export.graph.edits import drop_unused
from splitfrozen_export.precision.calibrate import Calibration
from splitfrozen_export.precision.products import find_products
from splitfrozen_export.precision.smooth import Smoothed, smooth_products, smoothing_factor
from tests.export.text_graphs import normal, operators, parse, run

LAYER_NORM = """
block (float[batch, seq, 32] x) => (float[batch, seq, 20] q, float[batch, seq, 20] k) {
    n = LayerNormalization(x, gain, shift)
    q = MatMul(n, wq)
    k = MatMul(n, wk)
}"""
RMS_NORM = """
block (float[batch, seq, 32] x) => (float[batch, seq, 20] q, float[batch, seq, 20] k) {
    n = RMSNormalization(x, gain)
    q = MatMul(n, wq)
    k = MatMul(n, wk)
}"""
PLAIN_NORM = """
block (float[batch, seq, 32] x) => (float[batch, seq, 20] q, float[batch, seq, 20] k) {
    t = Tanh(x)
    m = Mul(gain, t)
    n = Add(m, shift)
    q = MatMul(n, wq)
    k = MatMul(n, wk)
}"""
POST_NORM = """
block (float[batch, seq, 32] x) => (float[batch, seq, 32] q, float[batch, seq, 32] r) {
    n = LayerNormalization(x, gain, shift)
    q = MatMul(n, wq)
    r = Add(n, q)
}"""
GATED = """
block (float[batch, seq, 32] x) => (float[batch, seq, 20] y) {
    g = MatMul(x, wg)
    s = Sigmoid(g)
    a = Mul(g, s)
    u = MatMul(x, wu)
    b = Add(u, bu)
    p = Mul(a, b)
    y = MatMul(p, wd)
}"""
PLAIN = """
block (float[batch, seq, 32] x) => (float[batch, seq, 48] y) {
    u = MatMul(x, wu)
    g = Gelu(u)
    y = MatMul(g, wd)
}"""
X = normal(2, 5, 32, seed=9)


def outliers(width: int, seed: int = 5) -> np.ndarray:
    """Largest inputs of a layer in which some channels are far above the others."""
    largest = np.abs(normal(width, seed=seed)) + 0.5
    largest[::7] *= 200
    return largest


def calibration(**widths: int) -> Calibration:
    return Calibration({layer: outliers(width) for layer, width in widths.items()}, {}, "")


def smooth(text: str, known: Calibration, **constants: np.ndarray) -> tuple[ir.Model, Smoothed]:
    model = parse(text, **constants)
    smoothed = smooth_products(model.graph, find_products(model.graph), known)
    drop_unused(model)
    return model, smoothed


def assert_unchanged(text: str, model: ir.Model, **constants: np.ndarray) -> None:
    """And the weights are really other ones."""
    for found, expected in zip(run(model, x=X), run(parse(text, **constants), x=X), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    kept = [
        name
        for name, value in model.graph.initializers.items()
        if name in constants and np.array_equal(value.const_value.numpy(), constants[name])
    ]
    assert len(kept) < len(constants)


@pytest.mark.parametrize("text", [LAYER_NORM, RMS_NORM, PLAIN_NORM])
def test_a_norm_takes_the_factors_over(text: str) -> None:
    constants = {
        "gain": normal(32, seed=1),
        "shift": normal(32, seed=2),
        "wq": normal(32, 20, seed=3),
        "wk": normal(32, 20, seed=4),
    }
    constants = {name: array for name, array in constants.items() if name in text}
    before = operators(parse(text, **constants))
    model, smoothed = smooth(text, calibration(wq=32, wk=32), **constants)
    assert smoothed == Smoothed(inputs=1, multiplied=0)
    assert operators(model) == before
    assert_unchanged(text, model, **constants)


def test_a_norm_that_a_residual_reads_too_keeps_its_own_factors() -> None:
    constants = {"gain": normal(32), "shift": normal(32, seed=1), "wq": normal(32, 32, seed=2)}
    model, smoothed = smooth(POST_NORM, calibration(wq=32), **constants)
    assert smoothed == Smoothed(inputs=1, multiplied=1)
    assert operators(model).count("Mul") == 1
    assert_unchanged(POST_NORM, model, **constants)


def test_an_up_projection_takes_over_what_its_gate_cannot() -> None:
    constants = {
        "wg": normal(32, 48),
        "wu": normal(32, 48, seed=1),
        "bu": normal(48, seed=2),
        "wd": normal(48, 20, seed=3),
    }
    model, smoothed = smooth(GATED, calibration(wd=48), **constants)
    assert smoothed == Smoothed(inputs=1, multiplied=0)
    assert operators(model) == operators(parse(GATED, **constants))
    assert_unchanged(GATED, model, **constants)


def test_two_biases_on_the_way_are_both_scaled() -> None:
    text = """
block (float[batch, seq, 32] x) => (float[batch, seq, 20] y) {
    u = MatMul(x, wu)
    a = Add(u, b1)
    b = Add(a, b2)
    y = MatMul(b, wd)
}"""
    constants = {
        "wu": normal(32, 48),
        "b1": normal(48, seed=1),
        "b2": 5 * normal(48, seed=2),
        "wd": normal(48, 20, seed=3),
    }
    model, smoothed = smooth(text, calibration(wd=48), **constants)
    assert smoothed == Smoothed(inputs=1, multiplied=0)
    assert_unchanged(text, model, **constants)


def test_an_activation_function_takes_nothing_over() -> None:
    constants = {"wu": normal(32, 48), "wd": normal(48, 48, seed=1)}
    model, smoothed = smooth(PLAIN, calibration(wd=48), **constants)
    assert smoothed == Smoothed(inputs=1, multiplied=1)
    assert_unchanged(PLAIN, model, **constants)


def test_a_transposed_weight_is_scaled_along_its_inputs() -> None:
    text = """
    block (float[batch, seq, 32] x) => (float[batch, seq, 20] y) {
        t = Transpose<perm = [1, 0]>(w)
        y = MatMul(x, t)
    }"""
    model, smoothed = smooth(text, calibration(w=32), w=normal(20, 32))
    assert smoothed.inputs == 1
    assert_unchanged(text, model, w=normal(20, 32))


def test_products_of_one_input_of_which_one_is_unknown_are_left_alone() -> None:
    constants = {"gain": normal(32), "wq": normal(32, 20), "wk": normal(32, 20, seed=1)}
    _model, smoothed = smooth(RMS_NORM, calibration(wq=32), **constants)
    assert smoothed == Smoothed(0, 0)


def test_a_weight_that_something_else_reads_is_left_alone() -> None:
    text = """
    tied (int64[batch, seq] ids) => (float[batch, seq, 10] y) {
        x = Gather(table, ids)
        t = Transpose<perm = [1, 0]>(table)
        y = MatMul(x, t)
    }"""
    _model, smoothed = smooth(text, calibration(table=32), table=normal(10, 32))
    assert smoothed == Smoothed(0, 0)


def test_no_calibration_smooths_nothing() -> None:
    model = parse(PLAIN, wu=normal(32, 48), wd=normal(48, 48))
    assert smooth_products(model.graph, find_products(model.graph), None) == Smoothed(0, 0)


def test_unused_channels_and_weights_of_zero_keep_their_scale() -> None:
    factor = smoothing_factor(
        np.array([0, 4, 4, np.inf], np.float32), np.array([1, 0, 1, 1], np.float32)
    )
    assert factor.tolist() == [1, 1, 2, 1]
