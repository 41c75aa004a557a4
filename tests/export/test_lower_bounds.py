"""How far an activation function goes below zero is found by running its nodes."""

from __future__ import annotations

import numpy as np
import pytest

from splitfrozen_export.precision.lower_bounds import lower_bound
from tests.export.text_graphs import normal, parse

TANH_GELU = """
    cube = Pow(u, three)
    inner = Mul(cube, small)
    sum = Add(u, inner)
    wide = Mul(sum, root)
    t = Tanh(wide)
    one_more = Add(t, one)
    part = Mul(u, half)
    y = Mul(part, one_more)"""
NUMBERS = {"three": 3.0, "small": 0.044715, "root": 0.7978846, "one": 1.0, "half": 0.5}


def bound(body: str, **numbers: float) -> float | None:
    text = f"f (float[n, 32] u, float[n, 32] z) => (float[n, 32] y) {{ {body} }}"
    constants = {name: np.array(number, np.float32) for name, number in numbers.items()}
    return lower_bound(parse(text, **constants).graph.outputs[0])


@pytest.mark.parametrize(
    ("body", "numbers", "lowest"),
    [
        ("y = Relu(u)", {}, 0.0),
        ("y = Gelu(u)", {}, -0.1700),
        ('y = Gelu<approximate = "tanh">(u)', {}, -0.1700),
        (TANH_GELU, NUMBERS, -0.1700),
        ("s = Sigmoid(u) y = Mul(u, s)", {}, -0.2785),
        ("r = Relu(u) y = Mul(r, r)", {}, 0.0),
        ("y = Tanh(u)", {}, -1.0),
    ],
)
def test_an_activation_function_has_a_bound(
    body: str, numbers: dict[str, float], lowest: float
) -> None:
    found = bound(body, **numbers)
    assert found is not None
    assert lowest - 0.0011 <= found <= lowest
    assert found * 1024 == int(found * 1024)  # a round number, the same on every machine


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity(u)",
        "y = Neg(u)",
        "s = Sigmoid(u) y = Mul(s, z)",  # a gate: two values
        "s = Softmax(u) y = Neg(s)",
        "y = LeakyRelu(u)",  # falls slowly, but without end
        "y = Mul(u, tenth)",
        "y = Div(u, eight)",
    ],
)
def test_anything_else_has_none(body: str) -> None:
    numbers = {name: value for name, value in (("tenth", 0.1), ("eight", 8.0)) if name in body}
    assert bound(body, **numbers) is None


def test_a_function_that_treats_channels_differently_has_none() -> None:
    text = "f (float[n, 32] u) => (float[n, 32] y) { g = Relu(u) y = Mul(g, w) }"
    assert lower_bound(parse(text, w=normal(32)).graph.outputs[0]) is None
