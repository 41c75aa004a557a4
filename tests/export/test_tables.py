"""The int8 pass over embedding tables."""

from __future__ import annotations

import numpy as np
import pytest

from splitfrozen_export.graph.edits import drop_unused
from splitfrozen_export.precision.tables import quantize_table, quantize_tables
from tests.export.text_graphs import normal, operators, parse, run

LOOKUP = """
embed (int64[batch, seq] ids) => (float[batch, seq, 32] y) {
    y = Gather(table, ids)
}"""
IDS = np.array([[0, 3, 9], [9, 9, 1]], np.int64)


def test_a_lookup_multiplies_int8_rows_by_their_scale() -> None:
    model = parse(LOOKUP, table=normal(10, 32))
    assert quantize_tables(model) == 1
    drop_unused(model)
    assert operators(model) == ["Gather", "Gather", "Cast", "Mul"]
    kinds = {name: value.dtype.name for name, value in model.graph.initializers.items()}
    assert kinds == {"table_rows_int8": "INT8", "table_rows_scale": "FLOAT"}


def test_a_row_is_within_half_a_step_of_the_original() -> None:
    table = normal(10, 32)
    table[3] *= 1e4  # an outlier row costs the other rows nothing
    model = parse(LOOKUP, table=table)
    quantize_tables(model)
    (y,) = run(model, ids=IDS)
    step = np.abs(table[IDS]).max(axis=-1, keepdims=True) / 127
    assert (np.abs(y - table[IDS]) <= 0.5001 * step).all()


def test_a_row_of_zeros_stays_zeros() -> None:
    table = normal(10, 32)
    table[9] = 0  # a padding row
    model = parse(LOOKUP, table=table)
    quantize_tables(model)
    (y,) = run(model, ids=IDS)
    assert (y[0, 2] == 0).all()


def test_two_lookups_share_one_table() -> None:
    text = """
    embed (int64[batch, seq] ids) => (float[batch, seq, 32] y) {
        a = Gather(table, ids)
        b = Gather<axis = 0>(table, ids)
        y = Add(a, b)
    }"""
    model = parse(text, table=normal(10, 32))
    assert quantize_tables(model) == 2
    drop_unused(model)
    assert sorted(model.graph.initializers) == ["table_rows_int8", "table_rows_scale"]


def test_narrow_tables_and_other_axes_are_left_alone() -> None:
    text = """
    embed (int64[seq] ids) => (float[seq, 4] narrow, float[10, seq] columns) {
        narrow = Gather(bias, ids)
        columns = Gather<axis = 1>(table, ids)
    }"""
    model = parse(text, bias=normal(10, 4), table=normal(10, 32))
    assert quantize_tables(model) == 0
    assert operators(model) == ["Gather", "Gather"]


def test_rows_round_half_to_even() -> None:
    coded, scale = quantize_table(np.array([[127.0, 0.5, 1.5, -2.5]], np.float32))
    assert scale.tolist() == [[1.0]]
    assert coded.tolist() == [[127, 0, 2, -2]]


@pytest.mark.parametrize(("bits", "steps"), [(4, 15), (8, 255)])
@pytest.mark.parametrize("width", [32, 48, 96])
def test_a_block_is_within_a_step_of_the_original(bits: int, steps: int, width: int) -> None:
    """Half a step by rounding, half a step because the zero point is a whole number."""
    table = normal(10, width)
    table[3, :32] *= 1e4  # an outlier costs only its block
    text = LOOKUP.replace("seq, 32", f"seq, {width}")
    model = parse(text, table=table)
    assert quantize_tables(model, "int4" if bits == 4 else "int8", blocks=True) == 1
    drop_unused(model)
    assert operators(model) == ["GatherBlockQuantized"]
    assert all(name.startswith(f"table_{bits}bit_") for name in model.graph.initializers)
    (y,) = run(model, ids=IDS)
    for start in range(0, width, 32):
        block = table[IDS][..., start : start + 32]
        low, high = np.minimum(block.min(-1), 0), np.maximum(block.max(-1), 0)
        step = (high - low) / steps
        error = np.abs(y[..., start : start + 32] - block).max(-1)
        assert (error <= 1.0001 * step).all()


def test_a_small_table_stays_int8_beside_four_bits() -> None:
    text = """
    embed (int64[batch, seq] ids, int64[batch, seq] at) => (float[batch, seq, 32] y) {
        a = Gather(words, ids)
        b = Gather(positions, at)
        y = Add(a, b)
    }"""
    model = parse(text, words=normal(400, 32), positions=normal(20, 32))
    assert quantize_tables(model, "int4") == 2
    drop_unused(model)
    kinds = {name for name in model.graph.initializers}
    assert {"words_4bit_codes", "positions_rows_int8"} <= kinds


def test_an_odd_width_stays_int8() -> None:
    model = parse(LOOKUP.replace("seq, 32", "seq, 33"), table=normal(10, 33))
    quantize_tables(model, "int4")
    assert "GatherBlockQuantized" not in operators(model)


def test_large_tables_are_coded_in_pieces_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    table = normal(50, 32)
    whole = quantize_table(table)
    monkeypatch.setattr("splitfrozen_export.precision.tables._CHUNK", 3 * 32)
    pieces = quantize_table(table)
    assert [array.tobytes() for array in pieces] == [array.tobytes() for array in whole]
