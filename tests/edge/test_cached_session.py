"""The graph with past on a device: however a text is fed, its activations are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splitfrozen import read_bundle
from splitfrozen.errors import ManifestError
from splitfrozen.graph import DEVICE_GRAPH, HIDDEN, HIDDEN_Q, SCALE
from splitfrozen_edge.model.cached_session import CachedSession
from splitfrozen_edge.model.session import Graph, GraphOptions
from splitfrozen_edge.state import StateError

IDS = [7, 30, 8, 99, 31, 5, 64, 64, 12]


@pytest.mark.parametrize("sizes", [(1,) * 9, (3, 1, 5), (8, 1), (1, 8)])
def test_a_text_fed_in_parts_gives_the_outputs_of_the_whole(
    past_bundle: Path, sizes: tuple[int, ...]
) -> None:
    session = CachedSession(read_bundle(past_bundle), threads=1)
    whole = session.start().feed(IDS)
    text, found, at = session.start(), [], 0
    for size in sizes:
        found.append(text.feed(IDS[at : at + size]))
        at += size
        assert text.tokens == at
    for name in (HIDDEN, HIDDEN_Q, SCALE):
        parts = np.concatenate([outputs[name] for outputs in found], axis=1)
        assert parts.shape[:2] == (1, len(IDS))
        assert np.array_equal(parts, whole[name])


def test_texts_of_one_session_do_not_know_each_other(past_bundle: Path) -> None:
    session = CachedSession(read_bundle(past_bundle), threads=1, wire="fp32")
    one, two = session.start(), session.start()
    one.feed([7, 30])
    two.feed([99, 5])
    alone = session.start()
    alone.feed([7, 30])
    assert np.array_equal(one.feed([8])[HIDDEN], alone.feed([8])[HIDDEN])
    assert HIDDEN_Q not in one.feed([8])


def test_a_bundle_without_the_graph_says_how_to_export_it(decoder_bundle: Path) -> None:
    with pytest.raises(StateError, match=r"no device_with_past\.onnx.*without --no-generation"):
        CachedSession(read_bundle(decoder_bundle))


def test_an_encoder_is_told_from_a_decoder_that_was_exported_without_it(
    encoder_bundle: Path,
) -> None:
    with pytest.raises(StateError, match=r"encoder .*use predict"):
        CachedSession(read_bundle(encoder_bundle))


def test_another_graph_is_refused(past_bundle: Path) -> None:
    bundle = read_bundle(past_bundle)
    plain = Graph(bundle.path(DEVICE_GRAPH), GraphOptions(1))
    with pytest.raises(ManifestError, match="no graph with past"):
        CachedSession(bundle, graph=plain)
