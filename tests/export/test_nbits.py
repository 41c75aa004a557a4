"""Products with 4-bit and 8-bit weights in blocks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from splitfrozen_export.graph.edits import drop_unused
from splitfrozen_export.precision.block_codes import BLOCK, quantize_blocks, restore_blocks
from splitfrozen_export.precision.nbits import quantize_nbits
from splitfrozen_export.precision.products import MICROSOFT, find_products
from tests.export.text_graphs import normal, operators, parse, run

ONE = "block (float[batch, seq, K] x) => (float[batch, seq, 20] y) { y = MatMul(x, w) }"
GEMM = "block (float[tokens, 48] x) => (float[tokens, 20] y) { y = Gemm(x, w, b) }"


def coded(text: str, bits: int, **constants: np.ndarray) -> ir.Model:
    model = parse(text, **constants)
    for product in find_products(model.graph):
        quantize_nbits(model.graph, product, bits)
    model.graph.opset_imports[MICROSOFT] = 1
    drop_unused(model)
    return model


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", [32, 48, 128, 160])
def test_the_operator_reads_the_codes_as_they_are_restored(bits: int, width: int) -> None:
    w, x = normal(width, 20), normal(2, 5, width, seed=1)
    model = coded(ONE.replace("K", str(width)), bits, w=w)
    assert operators(model) == ["MatMulNBits"]
    (y,) = run(model, x=x)
    restored = restore_blocks(quantize_blocks(np.ascontiguousarray(w.T), bits), width).T
    error = np.linalg.norm(y - x @ restored) / np.linalg.norm(x @ restored)
    assert error < 0.012  # its own 8-bit coding of x


@pytest.mark.parametrize("bits", [4, 8])
def test_a_bias_stays(bits: int) -> None:
    w, b, x = normal(48, 20), 100 * normal(20, seed=3), normal(6, 48)
    model = coded(GEMM, bits, w=w, b=b)
    assert operators(model) == ["MatMulNBits", "Add"]
    assert np.abs(run(model, x=x)[0] - (x @ w + b)).max() < 3


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_token_is_the_same_to_the_bit_beside_any_neighbour(bits: int, threads: int) -> None:
    model = coded(ONE.replace("K", "160"), bits, w=normal(160, 20))
    x = normal(4, 9, 160, seed=2)
    x[2] *= 1000
    (together,) = run(model, threads=threads, x=x)
    for row in range(4):
        for length in (1, 2, 5, 9):
            (alone,) = run(model, threads=threads, x=x[row : row + 1, :length])
            assert alone[0].tobytes() == together[row, :length].tobytes()


@given(
    arrays(np.float32, (3, 70), elements=st.floats(-1e6, 1e6, width=32)), st.sampled_from([4, 8])
)
def test_a_value_is_within_a_step_of_its_block(matrix: np.ndarray, bits: int) -> None:
    restored = restore_blocks(quantize_blocks(matrix, bits), 70)
    for start in range(0, 70, BLOCK):
        block = matrix[:, start : start + BLOCK].astype(np.float64)
        span = np.maximum(block.max(1), 0) - np.minimum(block.min(1), 0)
        error = np.abs(restored[:, start : start + BLOCK] - block).max(1)
        assert (error <= 1.001 * span / (2**bits - 1) + 1e-30).all()


@given(arrays(np.float32, (2, 64), elements=st.floats(-1e6, 1e6, width=32)))
def test_zero_stays_zero(matrix: np.ndarray) -> None:
    matrix[:, ::5] = 0
    assert (restore_blocks(quantize_blocks(matrix, 4), 64)[:, ::5] == 0).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_pieces_are_coded_like_the_whole(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = normal(40, 70)
    whole = quantize_blocks(matrix, bits)
    monkeypatch.setattr("splitfrozen_export.precision.block_codes._CHUNK", 3 * 96)
    pieces = quantize_blocks(matrix, bits)
    assert pieces.packed.tobytes() == whole.packed.tobytes()
    assert pieces.scales.tobytes() == whole.scales.tobytes()
    assert pieces.zero_points.tobytes() == whole.zero_points.tobytes()


def test_four_bits_cost_five_eighths_of_a_byte() -> None:
    codes = quantize_blocks(normal(64, 256), 4)
    size = codes.packed.nbytes + codes.scales.nbytes + codes.zero_points.nbytes
    assert size / (64 * 256) == pytest.approx(0.5 + 4 / 32 + 0.5 / 32)
