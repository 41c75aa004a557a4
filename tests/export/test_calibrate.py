"""A calibration holds what the layers of a segment receive, whatever the batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from splitfrozen import SplitFrozenError
from splitfrozen_export.precision.calibrate import ROWS, Calibration, calibrate
from splitfrozen_export.precision.outliers import choose_outliers, product_error
from splitfrozen_export.precision.products import Product, find_products
from splitfrozen_export.split import DeviceSegment, load_device_segment, resolve_model
from tests.export.invariance import ragged
from tests.export.text_graphs import normal, parse

EXAMPLES = ragged(128, (3, 40, 9, 21, 1, 17), seed=6)


@pytest.fixture(scope="module")
def segment(tiny_model: Callable[[str], Path]) -> DeviceSegment:
    return load_device_segment(resolve_model(tiny_model("gpt2")), 1)


def inputs_of(segment: DeviceSegment, layer: str) -> np.ndarray:
    """All that a layer receives when every example runs alone."""
    seen = []
    module = segment.model.get_submodule(layer)
    handle = module.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0][0]))
    with handle, torch.no_grad():
        for ids in EXAMPLES:
            row = torch.tensor([ids])
            segment(row, torch.ones_like(row))
    return torch.cat(seen).numpy()


@pytest.mark.parametrize("layer", ["h.0.attn.c_attn", "h.0.mlp.c_proj"])
def test_the_largest_inputs_are_those_of_every_example_alone(
    segment: DeviceSegment, layer: str
) -> None:
    """Padding does not count, though examples of different lengths run together."""
    found = calibrate(segment, EXAMPLES).largest[layer]
    np.testing.assert_allclose(found, np.abs(inputs_of(segment, layer)).max(axis=0), rtol=1e-4)


def test_the_rows_are_inputs_of_real_tokens(segment: DeviceSegment) -> None:
    rows = calibrate(segment, EXAMPLES).rows["h.0.mlp.c_fc"]
    known = inputs_of(segment, "h.0.mlp.c_fc")
    assert len(rows) == sum(map(len, EXAMPLES)) <= ROWS
    nearest = [np.abs(known - row).max(axis=1).min() for row in rows]
    assert max(nearest) < 1e-4


def test_the_same_texts_give_the_same_calibration(segment: DeviceSegment) -> None:
    first, second = calibrate(segment, EXAMPLES), calibrate(segment, EXAMPLES)
    assert first.digest == second.digest != calibrate(segment, EXAMPLES[:-1]).digest
    for layer, largest in first.largest.items():
        assert largest.tobytes() == second.largest[layer].tobytes()


def test_progress_ends_at_the_number_of_examples(segment: DeviceSegment) -> None:
    parts: list[tuple[int, int]] = []
    calibrate(segment, EXAMPLES * 5, lambda done, total: parts.append((done, total)))
    assert parts == [(16, 30), (30, 30)]


def test_no_text_is_an_error(segment: DeviceSegment) -> None:
    with pytest.raises(SplitFrozenError, match="no text to calibrate on"):
        calibrate(segment, [[], []])


def layers(**weights: np.ndarray) -> list[Product]:
    body = "".join(f"y_{name} = MatMul(x, {name})\n" for name in weights)
    outputs = ", ".join(f"float[t, 32] y_{name}" for name in weights)
    return find_products(parse(f"f (float[t, 96] x) => ({outputs}) {{ {body} }}", **weights).graph)


def seen(**rows: np.ndarray) -> Calibration:
    return Calibration(
        {name: np.abs(values).max(axis=0) for name, values in rows.items()}, rows, ""
    )


WEIGHTS = {name: normal(96, 32, seed=seed) for seed, name in enumerate("abc")}
ROWS_OF = {name: normal(64, 96, seed=10 + seed) for seed, name in enumerate("abc")}


@pytest.mark.parametrize("code", ["int8", "8bit", "4bit"])
def test_layers_like_the_others_are_no_outliers(code: str) -> None:
    rows = {**ROWS_OF, "b": ROWS_OF["b"] * 1000}
    assert choose_outliers(layers(**WEIGHTS), seen(**rows), lambda _: code) == frozenset()


def test_large_channels_are_cured_by_smoothing_and_not_chosen() -> None:
    factor = np.where(np.arange(96) < 3, np.float32(300), np.float32(1))
    rows = {**ROWS_OF, "b": ROWS_OF["b"] * factor}
    weights = {**WEIGHTS, "b": WEIGHTS["b"] / factor[:, None]}
    assert product_error(weights["b"], rows["b"], "int8") > 0.5
    assert choose_outliers(layers(**weights), seen(**rows), lambda _: "int8") == frozenset()


@pytest.mark.parametrize("code", ["int8", "8bit", "4bit"])
def test_a_layer_whose_large_inputs_cancel_out_is_chosen(code: str) -> None:
    """Every channel is large, so no scale helps, and the weights see only the small rest."""
    weights = {**WEIGHTS, "c": WEIGHTS["c"] - WEIGHTS["c"].mean(axis=0)}
    rows = {**ROWS_OF, "c": ROWS_OF["c"] + 100}
    assert choose_outliers(layers(**weights), seen(**rows), lambda _: code) == {"c"}


def test_a_layer_without_rows_is_never_chosen() -> None:
    known = replace(seen(**ROWS_OF), rows={})
    assert choose_outliers(layers(**WEIGHTS), known, lambda _: "int8") == frozenset()
