"""The graph's int8 wire codec against splitfrozen.quantize, bit for bit."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from splitfrozen.quantize import quantize_int8, scale_width
from splitfrozen_export.graph.wire_codec import append_int8_codec
from tests.export.text_graphs import normal, parse, run

WIDTHS = (1, 32, 63, 64, 65, 100, 128, 384)


def codec(width: int) -> ir.Model:
    """A graph that hands its input on and codes it."""
    model = parse(
        f"segment (float[batch, seq, {width}] x) => (float[batch, seq, {width}] hidden) "
        "{ hidden = Identity(x) }"
    )
    append_int8_codec(model, width)
    return model


def assert_same_bits(hidden: NDArray[np.float32]) -> None:
    """`hidden` [tokens, d] is coded alike by the graph and by the reference."""
    expected, scales = quantize_int8(hidden)
    plain, coded, scale = run(codec(hidden.shape[1]), x=hidden[None])
    assert plain[0].tobytes() == hidden.tobytes()
    assert (coded.dtype, scale.dtype) == (np.int8, np.float16)
    assert coded[0].tobytes() == expected.tobytes()
    assert scale[0].tobytes() == scales.tobytes()


@pytest.mark.parametrize("width", WIDTHS)
def test_real_looking_activations_have_the_same_bits(width: int) -> None:
    hidden = normal(200, width) * np.exp(normal(200, 1, seed=1) * 4)
    assert_same_bits(hidden.astype(np.float32))


@pytest.mark.parametrize("width", WIDTHS)
def test_zeros_have_the_same_bits(width: int) -> None:
    hidden = normal(4, width)
    hidden[1] = 0
    hidden[2] = -0.0
    assert_same_bits(hidden)


@pytest.mark.parametrize("largest", [127.0, 254.0, 63.5, 127.0 * 2**-14, 127.0 * 2**-20])
def test_ties_round_to_even_in_both(largest: float) -> None:
    """The scale is exact, so every half step is a tie."""
    steps = np.arange(-127, 127.5, 0.5, dtype=np.float64)
    rows = np.resize(steps, (8, 64)).astype(np.float64)
    rows[:, 0] = 127
    assert_same_bits((rows * (largest / 127.0)).astype(np.float32))


def test_scales_that_tie_in_float16_have_the_same_bits() -> None:
    """max / 127 half way between two float16 numbers, normal and subnormal, on both sides."""
    patterns = np.arange(1, 0x7BFF, 7, dtype=np.uint16)
    low = patterns.view(np.float16).astype(np.float64)
    high = (patterns + np.uint16(1)).view(np.float16).astype(np.float64)
    largest = ((low + high) / 2 * 127).astype(np.float32)
    around = [np.nextafter(largest, np.float32(0)), largest, np.nextafter(largest, np.float32(9e9))]
    hidden = normal(3 * len(largest), 64) * 0.1
    hidden[:, 5] = 1
    assert_same_bits((hidden * np.concatenate(around)[:, None]).astype(np.float32))


def test_scales_below_float16_round_the_group_away_in_both() -> None:
    hidden = normal(5, 64)
    for row, factor in enumerate((1e-7, 1e-9, 1e-20, 1e-38, 1e-44)):
        hidden[row] *= np.float32(factor)
    assert_same_bits(hidden)


def test_an_outlier_stays_in_its_group() -> None:
    hidden = normal(6, 160)
    hidden[:, 70] = 3e6
    assert_same_bits(hidden)
    _, coded, _ = run(codec(160), x=hidden[None])
    assert np.abs(coded[0, :, :64]).max() == 127


def test_random_bit_patterns_have_the_same_bits() -> None:
    patterns = np.random.default_rng(7).integers(0, 2**32, (400, 96), dtype=np.uint32)
    hidden = patterns.view(np.float32).copy()
    hidden[~np.isfinite(hidden) | (np.abs(hidden) > 8e6)] = 1
    assert_same_bits(hidden)


def test_padding_and_neighbours_do_not_reach_a_token() -> None:
    hidden = normal(3, 5, 100)
    hidden[1] *= 1e5
    outputs = run(codec(100), x=hidden)
    for row in range(3):
        alone = run(codec(100), x=hidden[row : row + 1, :2])
        for whole, part in zip(outputs, alone, strict=True):
            assert whole[row, :2].tobytes() == part[0].tobytes()


@pytest.mark.parametrize("width", WIDTHS)
def test_outputs_are_declared_with_their_shapes(width: int) -> None:
    outputs = {value.name: value for value in codec(width).graph.outputs}
    assert list(outputs) == ["hidden", "hidden_q", "scale"]
    assert str(outputs["hidden_q"].shape) == f"[batch,seq,{width}]"
    assert str(outputs["scale"].shape) == f"[batch,seq,{scale_width(width)}]"


def test_what_is_not_finite_shows_in_hidden_or_scale() -> None:
    """A graph raises nothing: these two outputs are what a client has to look at."""
    hidden = normal(3, 64)
    hidden[0, 3], hidden[1, 3], hidden[2, 3] = np.nan, np.inf, 1e8
    plain, _, scale = run(codec(64), x=hidden[None])
    assert not np.isfinite(plain[0, :2]).all(axis=1).any()
    assert np.isinf(scale[0, 2, 0])
