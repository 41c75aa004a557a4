"""Decoding with past keys and values is the same computation as reading the whole text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from splitfrozen_export.measure.verify import run_graph
from splitfrozen_export.past import verify_cached
from splitfrozen_export.past.decode import decode
from tests.export.invariance import ragged
from tests.export.past.conftest import Pair
from tests.tiny_models import DECODERS

Pairs = Callable[[str], Pair]

VOCABULARY = 128
LENGTHS = (40, 1, 23, 6)  # longer than the sliding windows of the tiny models
QUICK = ("gpt2",)  # a real Llama is below; tracing all families takes minutes
EVERY = [
    family if family in QUICK else pytest.param(family, marks=pytest.mark.long)
    for family in DECODERS
]


@pytest.mark.parametrize("family", EVERY)
def test_single_tokens_chunks_and_padded_batches_equal_torch_in_fp32(
    pair: Pairs, family: str
) -> None:
    graphs = pair(family)
    report = verify_cached(
        graphs.directories["fp32"], graphs.segment, ragged(VOCABULARY, LENGTHS), max_length=512
    )
    assert report.relative_error < 1e-5
    assert report.prefill_error < 1e-5
    assert report.padding_error < 1e-5
    assert report.tokens > 300


@pytest.mark.parametrize("family", EVERY)
def test_int8_sends_the_same_bytes_however_the_text_is_fed(pair: Pairs, family: str) -> None:
    graphs = pair(family)
    report = verify_cached(
        graphs.directories["int8"], graphs.segment, ragged(VOCABULARY, LENGTHS), max_length=512
    )
    assert report.same_bytes
    assert report.changed_codes == 0.0
    assert report.largest_code_step == 0
    assert report.neighbour_difference == 0.0


@pytest.mark.parametrize("chunks", [(1,), (2,), (100, 1), (16, 1, 7, 3), (1000,)])
def test_every_chunking_gives_the_bits_of_the_prefill_graph(
    stories_pair: Pair, chunks: tuple[int, ...]
) -> None:
    (ids,) = ragged(512, (150,), seed=5)
    (found,) = decode(stories_pair.cached("int8"), [ids], chunks)
    expected = run_graph(stories_pair.prefill("int8"), [ids])
    for wanted, got in zip(expected, found.values(), strict=True):
        assert wanted[0].tobytes() == got.tobytes()


def test_padding_on_the_left_of_a_text_changes_nothing_in_it(stories_pair: Pair) -> None:
    session = stories_pair.cached("fp32")
    text = ragged(VOCABULARY, (9,), seed=6)
    (alone,) = decode(session, text, [4, 1])
    together = decode(session, [*text, ragged(VOCABULARY, (21,), seed=7)[0]], [4, 1])[0]
    np.testing.assert_allclose(together["hidden"], alone["hidden"], rtol=1e-4, atol=1e-5)
