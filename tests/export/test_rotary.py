"""The repairs of exported rotary positions."""

from __future__ import annotations

import numpy as np
import pytest

from splitfrozen_export.graph.rotary import repair_rotary
from tests.export.text_graphs import normal, operators, parse, run

ROTARY = """
rotate (float[batch, 2, seq, 16] x, float[1, seq, 8] angle) => (float[batch, 2, seq, 16] y) {
    c = Cos(angle)
    s = Sin(angle)
    y = RotaryEmbedding<interleaved = 0>(x, c, s)
}"""
COSINE = """
angles (float[batch, seq, WIDTH] x) => (float[batch, seq, WIDTH] y) {
    y = Cos(x)
}"""


def cosine(width: int) -> str:
    return COSINE.replace("WIDTH", str(width))


def test_tables_of_batch_one_serve_any_batch() -> None:
    model = parse(ROTARY)
    repair_rotary(model)
    x, angle = normal(3, 2, 5, 16), normal(1, 5, 8)
    (together,) = run(model, x=x, angle=angle)
    (alone,) = run(parse(ROTARY), x=x[1:2], angle=angle)
    assert together[1].tobytes() == alone[0].tobytes()


def test_tables_with_the_batch_are_left_alone() -> None:
    model = parse(ROTARY.replace("float[1, seq, 8]", "float[batch, seq, 16]"))
    repair_rotary(model)
    assert operators(model) == ["Cos", "Sin", "RotaryEmbedding"]


def test_whole_vectors_are_left_alone() -> None:
    model = parse(cosine(32))
    repair_rotary(model)
    assert operators(model) == ["Cos"]


@pytest.mark.parametrize("width", [1, 4, 5, 24])
def test_an_angle_s_cosine_does_not_depend_on_where_it_stands(width: int) -> None:
    model = parse(cosine(width))
    repair_rotary(model)
    x = normal(5, 37, width) * 50
    (together,) = run(model, x=x)
    for row in range(5):
        for length in (1, 7, 20):
            (alone,) = run(model, x=x[row : row + 1, :length])
            assert alone[0].tobytes() == together[row, :length].tobytes()
    np.testing.assert_allclose(together, np.cos(x), atol=1e-6)
