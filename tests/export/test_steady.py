"""Rounded statistics: noise in a last bit does not reach the next product."""

from __future__ import annotations

import numpy as np
import pytest

from splitfrozen_export.graph.steady import steady_graph
from tests.export.text_graphs import normal, operators, parse, run

LAYER_NORM = """
norm (float[batch, seq, 48] x) => (float[batch, seq, 48] y) {
    y = LayerNormalization<axis = -1, epsilon = 1e-12>(x, weight, bias)
}"""
RMS_NORM = """
norm (float[batch, seq, 48] x) => (float[batch, seq, 48] y) {
    y = RMSNormalization<axis = -1, epsilon = 1e-5>(x, weight)
}"""
TENSORS = {"weight": normal(48, seed=1), "bias": normal(48, seed=2)}


@pytest.mark.parametrize(("text", "names"), [(LAYER_NORM, 2), (RMS_NORM, 1)])
def test_a_norm_written_out_is_the_norm_but_for_its_rounded_length(text: str, names: int) -> None:
    constants = dict(list(TENSORS.items())[:names])
    x = normal(3, 7, 48) + 2
    (expected,) = run(parse(text, **constants), x=x)
    model = parse(text, **constants)
    assert steady_graph(model) == 1
    assert "Normalization" not in " ".join(operators(model))
    (found,) = run(model, x=x)
    assert np.linalg.norm(found - expected) <= 2e-3 * np.linalg.norm(expected)


def test_a_last_bit_elsewhere_in_the_token_does_not_move_the_other_values() -> None:
    x = normal(1, 200, 48)
    moved = x.copy()
    moved[..., 0] = np.nextafter(x[..., 0], np.float32(9))
    model = parse(LAYER_NORM, **TENSORS)
    steady_graph(model)
    (before,), (after,) = run(model, x=x), run(model, x=moved)
    assert (before[..., 1:] != after[..., 1:]).any(axis=-1).mean() <= 0.02


def test_rows_do_not_depend_on_their_neighbours() -> None:
    model = parse(LAYER_NORM, **TENSORS)
    steady_graph(model)
    x = normal(5, 9, 48)
    (together,) = run(model, x=x)
    for row in range(5):
        (alone,) = run(model, x=x[row : row + 1, :4])
        assert alone[0].tobytes() == together[row, :4].tobytes()
