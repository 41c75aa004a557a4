"""Every precision on real pretrained weights: measured errors, sizes, and bits that do not move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest
from tokenizers import Tokenizer

from splitfrozen_export.measure.verify import Report, verify
from splitfrozen_export.precision.calibrate import Calibration, calibrate
from splitfrozen_export.precision.quantize import (
    AUTO,
    MAX_ERROR,
    PRECISIONS,
    Recipe,
    default_embedding,
)
from tests.export.conftest import Traced
from tests.export.invariance import (
    assert_later_tokens_do_not_matter,
    assert_neighbours_do_not_matter,
)

Rows = list[list[int]]
QUANTIZED = PRECISIONS[1:]


def encode(model: Path, texts: list[str]) -> Rows:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return [tokenizer.encode(text).ids[:400] for text in texts if text.strip()]


@pytest.fixture(scope="module")
def sentences(minilm: Path, shared_data: Path) -> Callable[[str], Rows]:
    """Sentences and longer pieces of the training or the held-out part, as MiniLM's ids."""

    def rows(part: str) -> Rows:
        lines = (shared_data / "sst2" / f"{part}.tsv").read_text("utf-8").splitlines()[1:25]
        text = (shared_data / "text" / "tinyshakespeare.txt").read_text("utf-8").split("\n\n")
        pieces = text[:8] if part == "train" else text[500:508]
        return encode(minilm, [line.split("\t")[0] for line in lines] + pieces)

    return rows


@pytest.fixture(scope="module")
def tales(stories: Path, shared_data: Path) -> Callable[[str], Rows]:
    text = (shared_data / "text" / "tinystories_944k.txt").read_text("utf-8")

    def rows(part: str) -> Rows:
        start = 100_000 if part == "train" else 0
        return encode(stories, text[start : start + 9000].split("\n"))

    return rows


@pytest.fixture(scope="module")
def minilm_calibration(
    traced_minilm: Callable[[int], Traced], sentences: Callable[[str], Rows]
) -> Calibration:
    return calibrate(traced_minilm(4).segment, sentences("train"))


def measure(traced: Traced, path: Path, rows: Rows) -> Report:
    return verify(path, traced.segment, rows, max_length=400, causal=traced.segment.is_decoder)


# Measured 0.048, 0.019, 0.10, 0.17.
@pytest.mark.parametrize(
    ("precision", "limit"),
    [("int8", 0.05), ("int8-hq", 0.02), ("int4", 0.12), ("int4-all", 0.19)],
)
def test_minilm_is_as_close_as_measured(
    traced_minilm: Callable[[int], Traced],
    sentences: Callable[[str], Rows],
    precision: str,
    limit: float,
) -> None:
    traced = traced_minilm(4)
    report = measure(traced, traced.graph(precision), sentences("dev"))
    assert limit / 2 < report.relative_error < limit
    assert report.relative_error < MAX_ERROR[precision]
    assert report.neighbour_difference == 0.0


# Measured 0.033, 0.015, 0.09, 0.15: each is better than without.
@pytest.mark.parametrize(
    ("precision", "limit"),
    [
        ("int8", 0.04),
        pytest.param("int8-hq", 0.018, marks=pytest.mark.long),
        pytest.param("int4", 0.10, marks=pytest.mark.long),
        pytest.param("int4-all", 0.17, marks=pytest.mark.long),
    ],
)
def test_calibrated_minilm_is_closer(
    traced_minilm: Callable[[int], Traced],
    sentences: Callable[[str], Rows],
    minilm_calibration: Calibration,
    precision: str,
    limit: float,
) -> None:
    traced = traced_minilm(4)
    recipe = Recipe(precision, default_embedding(precision), calibration=minilm_calibration)
    path = traced.write(recipe, f"{precision}-calibrated")
    found = measure(traced, path, sentences("dev")).relative_error
    plain = measure(traced, traced.graph(precision), sentences("dev")).relative_error
    assert found < min(limit, 0.95 * plain)


def test_seven_bit_weights_cost_a_third_more_error(
    traced_minilm: Callable[[int], Traced], sentences: Callable[[str], Rows]
) -> None:
    traced = traced_minilm(4)
    path = traced.write(Recipe("int8", "int8", reduce_range=True), "reduced")
    full = measure(traced, traced.graph("int8"), sentences("dev")).relative_error
    assert full < measure(traced, path, sentences("dev")).relative_error < 1.5 * full


def test_layers_kept_in_fp32_make_it_closer(
    traced_minilm: Callable[[int], Traced], sentences: Callable[[str], Rows]
) -> None:
    traced = traced_minilm(4)
    path = traced.write(Recipe("int8", "int8", keep_fp=frozenset({"intermediate.dense"})), "kept")
    assert len(traced.coverage["kept"].kept) == 4
    found = measure(traced, path, sentences("dev")).relative_error
    assert found < 0.95 * measure(traced, traced.graph("int8"), sentences("dev")).relative_error


def test_real_models_have_no_outlier_layers_once_smoothed(
    traced_minilm: Callable[[int], Traced],
    traced_stories: Traced,
    minilm_calibration: Calibration,
    tales: Callable[[str], Rows],
) -> None:
    choices = {
        traced_minilm(4): minilm_calibration,
        traced_stories: calibrate(traced_stories.segment, tales("train")),
    }
    for traced, calibration in choices.items():
        recipe = Recipe("int8", "int8", keep_fp=frozenset({AUTO}), calibration=calibration)
        traced.write(recipe, "auto")
        assert traced.coverage["auto"].kept == ()


@pytest.mark.parametrize(
    ("precision", "limit"),
    [("int8", 0.03), ("int8-hq", 0.02), ("int4", 0.13), ("int4-all", 0.18)],
)
def test_a_small_llama_is_as_close_as_measured(
    traced_stories: Traced, tales: Callable[[str], Rows], precision: str, limit: float
) -> None:
    report = measure(traced_stories, traced_stories.graph(precision), tales("dev"))
    assert report.relative_error < min(limit, MAX_ERROR[precision])
    assert (report.neighbour_difference, report.later_token_difference) == (0.0, 0.0)


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_real_activation_depends_on_its_text_only(
    traced_stories: Traced, tales: Callable[[str], Rows], precision: str, threads: int
) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(traced_stories.graph(precision), options)
    assert_neighbours_do_not_matter(session, tales("dev")[:8])
    assert_later_tokens_do_not_matter(session, tales("dev")[0])


def test_sizes_go_down_with_the_bits(traced_minilm: Callable[[int], Traced]) -> None:
    traced = traced_minilm(4)
    sizes = {
        name: traced.graph(name).with_name("device.onnx.data").stat().st_size for name in PRECISIONS
    }
    assert sizes["int8"] < 0.26 * sizes["fp32"]
    assert sizes["int8-hq"] < 0.30 * sizes["fp32"]
    assert sizes["int4"] < 0.21 * sizes["fp32"]
    assert sizes["int4-all"] < 0.17 * sizes["fp32"]
