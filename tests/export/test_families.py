"""Every supported family becomes a device graph, in every precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from splitfrozen.quantize import quantize_int8
from splitfrozen_export.measure.verify import run_graph, verify
from splitfrozen_export.precision.calibrate import calibrate
from splitfrozen_export.precision.quantize import PRECISIONS, Recipe
from tests.export.conftest import Traced, cut_of
from tests.export.invariance import (
    assert_later_tokens_do_not_matter,
    assert_neighbours_do_not_matter,
    ragged,
)
from tests.tiny_models import DECODERS, FAMILIES, is_decoder

Graphs = Callable[[str], Traced]

VOCABULARY = 128
# Longer than the sliding windows of the tiny models; whole vectors and their remainders.
LENGTHS = (17, 1, 64, 3, 40, 100, 2, 33)
# The width of a tiny model averages out little, and its weights are random: measured at most
# int8 0.037, int8-hq 0.035, int4 0.37, int4-all 0.40, far above real models.
LIMIT = {"fp32": 5e-6, "int8": 0.05, "int8-hq": 0.05, "int4": 0.45, "int4-all": 0.5}

# int4 holds both kinds of blocks; the two of one kind alone take the same ways.
OFTEN = ("fp32", "int8", "int4")
ALL = [name if name in OFTEN else pytest.param(name, marks=pytest.mark.long) for name in PRECISIONS]


@pytest.mark.parametrize("precision", ALL)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_equals_the_segment_at_every_shape(
    traced: Graphs, family: str, precision: str
) -> None:
    graphs = traced(family)
    report = verify(
        graphs.graph(precision),
        graphs.segment,
        ragged(VOCABULARY, LENGTHS),
        max_length=512,
        causal=is_decoder(family),
    )
    assert report.relative_error < LIMIT[precision]
    if not precision.startswith("int4"):
        assert report.cosine_min > 0.98
    assert report.shapes == ((1, 1), (1, 256), (8, 100))


@pytest.mark.parametrize("precision", ALL[1:])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_do_not_depend_on_batch_or_padding(
    traced: Graphs, family: str, precision: str
) -> None:
    session = traced(family).session(precision)
    assert_neighbours_do_not_matter(session, ragged(VOCABULARY, LENGTHS, seed=1))
    assert_neighbours_do_not_matter(session, ragged(VOCABULARY, (1, 1, 5), seed=2))


@pytest.mark.parametrize("precision", ALL[1:])
@pytest.mark.parametrize("family", DECODERS)
def test_activations_do_not_depend_on_later_tokens(
    traced: Graphs, family: str, precision: str
) -> None:
    session = traced(family).session(precision)
    for ids in ragged(VOCABULARY, (37, 128), seed=3):
        assert_later_tokens_do_not_matter(session, ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_codes_what_the_reference_codes(traced: Graphs, family: str) -> None:
    hidden, coded, scale = run_graph(
        traced(family).session("int8"), ragged(VOCABULARY, (9, 30, 4), seed=4)
    )
    tokens = hidden.reshape(-1, hidden.shape[-1])
    expected, scales = quantize_int8(tokens)
    assert coded.reshape(tokens.shape).tobytes() == expected.tobytes()
    assert scale.reshape(scales.shape).tobytes() == scales.tobytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_keeps_no_product_weight_in_float(traced: Graphs, family: str) -> None:
    graphs = traced(family)
    assert graphs.coverage["int8"].products >= 4 * cut_of(family)
    assert graphs.coverage["int8"].tables >= 1
    model = onnx.load(graphs.graphs["int8"], load_external_data=False)
    weights = [t for t in model.graph.initializer if len(t.dims) == 2 and min(t.dims) >= 32]
    assert {t.data_type for t in weights} == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("family", FAMILIES)
def test_int4_halves_attention_only(traced: Graphs, family: str) -> None:
    graphs = traced(family)
    graphs.graph("int4")
    coverage = graphs.coverage["int4"]
    assert cut_of(family) * 2 <= coverage.products_4bit <= cut_of(family) * 4
    assert coverage.products - coverage.products_4bit in (2 * cut_of(family), 3 * cut_of(family))


@pytest.mark.parametrize(
    "family",
    [
        family if family in ("llama", "bert") else pytest.param(family, marks=pytest.mark.long)
        for family in FAMILIES
    ],
)
def test_a_calibrated_graph_is_as_close_and_as_steady(traced: Graphs, family: str) -> None:
    graphs = traced(family)
    calibration = calibrate(graphs.segment, ragged(VOCABULARY, (17, 40, 9), seed=9))
    path = graphs.write(Recipe("int8", "int8", calibration=calibration), "smooth")
    examples = ragged(VOCABULARY, LENGTHS)
    report = verify(path, graphs.segment, examples, max_length=512, causal=is_decoder(family))
    assert graphs.coverage["smooth"].smoothed >= 3 * cut_of(family)
    assert report.relative_error < LIMIT["int8"]
    assert report.neighbour_difference == 0
    assert not report.later_token_difference


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_names_its_axes_and_tells_no_paths(traced: Graphs, family: str) -> None:
    path = traced(family).graphs["int8"]
    graph = onnx.load(path, load_external_data=False).graph
    axes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert axes == {
        "input_ids": ["batch", "seq"],
        "attention_mask": ["batch", "seq"],
        "hidden": ["batch", "seq", 32],
        "hidden_q": ["batch", "seq", 32],
        "scale": ["batch", "seq", 1],
    }
    assert b"/splitfrozen_export/" not in path.read_bytes()
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "device.onnx",
        "device.onnx.data",
    ]


def test_a_decoder_reads_left_padding_as_it_reads_right_padding(traced: Graphs) -> None:
    """Positions come from the mask, so padding may stand on either side."""
    session = traced("llama").session("fp32")
    ids = np.array([ragged(VOCABULARY, (6,))[0]], np.int64)
    left = np.pad(ids, ((0, 0), (3, 0)))
    mask = (np.arange(9) >= 3).astype(np.int64)[None]
    (padded, *_) = session.run(None, {"input_ids": left, "attention_mask": mask})
    (plain, *_) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    np.testing.assert_allclose(padded[:, 3:], plain, rtol=1e-4, atol=1e-5)
