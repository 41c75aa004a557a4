"""Device graphs of real pretrained weights: measured errors, and bits that do not move."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from tokenizers import Tokenizer

from splitfrozen.quantize import quantize_int8
from splitfrozen_export.measure.samples import SENTENCES
from splitfrozen_export.measure.verify import Report, run_graph, verify
from tests.export.conftest import Traced
from tests.export.invariance import (
    assert_later_tokens_do_not_matter,
    assert_neighbours_do_not_matter,
    ragged,
)

Minilm = Callable[[int], Traced]
CUTS = [pytest.param(3, marks=pytest.mark.long), 4]


def encode(path, texts) -> list[list[int]]:  # type: ignore[no-untyped-def]
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return [tokenizer.encode(text).ids for text in texts]


@pytest.fixture(scope="module")
def english(minilm, shared_data) -> list[list[int]]:  # type: ignore[no-untyped-def]
    """Real sentences as MiniLM's token ids, short and long."""
    lines = (shared_data / "sst2" / "dev.tsv").read_text("utf-8").splitlines()[1:200]
    return encode(minilm, [line.split("\t")[0] for line in lines] + [" ".join(lines[:30])])


@pytest.fixture(scope="module")
def tales(stories, shared_data) -> list[list[int]]:  # type: ignore[no-untyped-def]
    """Real stories as the small Llama's token ids."""
    text = (shared_data / "text" / "tinystories_944k.txt").read_text("utf-8")[:20000]
    return [ids[:400] for ids in encode(stories, text.split("\n")) if ids]


def measure(traced: Traced, precision: str, examples: list[list[int]]) -> Report:
    return verify(
        traced.graphs[precision],
        traced.segment,
        examples,
        max_length=512,
        causal=traced.segment.is_decoder,
    )


@pytest.mark.parametrize(
    ("cut", "limit"), [pytest.param(3, 0.055, marks=pytest.mark.long), (4, 0.06)]
)
def test_minilm_in_int8_is_as_close_as_measured(
    traced_minilm: Minilm, english: list[list[int]], cut: int, limit: float
) -> None:
    report = measure(traced_minilm(cut), "int8", english)
    assert report.relative_error < limit
    assert report.worst_token < 0.13
    assert report.cosine_min > 0.99
    assert report.neighbour_difference == 0.0


@pytest.mark.parametrize("cut", CUTS)
def test_minilm_in_fp32_is_the_segment(
    traced_minilm: Minilm, english: list[list[int]], cut: int
) -> None:
    assert measure(traced_minilm(cut), "fp32", english).relative_error < 5e-6


def test_minilm_shrinks_to_a_quarter(traced_minilm: Minilm) -> None:
    sizes = {
        precision: path.with_name("device.onnx.data").stat().st_size
        for precision, path in traced_minilm(4).graphs.items()
    }
    assert sizes["int8"] < 0.27 * sizes["fp32"]


def test_a_small_llama_in_int8_is_as_close_as_measured(
    traced_stories: Traced, tales: list[list[int]]
) -> None:
    report = measure(traced_stories, "int8", tales)
    assert report.relative_error < 0.035
    assert (report.neighbour_difference, report.later_token_difference) == (0.0, 0.0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cut", CUTS)
def test_real_sentences_do_not_depend_on_batch_or_padding(
    traced_minilm: Minilm, english: list[list[int]], cut: int, threads: int
) -> None:
    session = with_threads(traced_minilm(cut), threads)
    assert_neighbours_do_not_matter(session, [ids[:510] for ids in english[-3:]])
    assert_neighbours_do_not_matter(session, english[:24])


@pytest.mark.parametrize("threads", [1, 2])
def test_real_stories_do_not_depend_on_batch_or_later_tokens(
    traced_stories: Traced, tales: list[list[int]], threads: int
) -> None:
    session = with_threads(traced_stories, threads)
    assert_neighbours_do_not_matter(session, tales[:12])
    for ids in (*tales[:4], *ragged(512, (500, 255), seed=5)):
        assert_later_tokens_do_not_matter(session, ids)


def test_real_activations_are_coded_as_the_reference_codes_them(
    traced_minilm: Minilm, english: list[list[int]]
) -> None:
    hidden, coded, scale = run_graph(traced_minilm(4).session("int8"), english[:32])
    tokens = hidden.reshape(-1, hidden.shape[-1])
    expected, scales = quantize_int8(tokens)
    assert np.array_equal(coded.reshape(tokens.shape), expected)
    assert scale.reshape(scales.shape).tobytes() == scales.tobytes()


def test_built_in_sentences_measure_like_real_text(
    traced_minilm: Minilm,
    minilm,
    english: list[list[int]],  # type: ignore[no-untyped-def]
) -> None:
    built_in = measure(traced_minilm(4), "int8", encode(minilm, SENTENCES)).relative_error
    real = measure(traced_minilm(4), "int8", english).relative_error
    assert 0.7 < built_in / real < 1.4


def with_threads(traced: Traced, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(traced.graphs["int8"], options)
