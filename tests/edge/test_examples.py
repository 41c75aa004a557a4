"""The second reading of a data file."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitfrozen import read_bundle
from splitfrozen.errors import DataError
from splitfrozen_edge.data.examples import Preparer
from splitfrozen_edge.data.preprocess import Preprocessor
from splitfrozen_edge.data.rows import Source
from splitfrozen_edge.data.tokenizer import Tokenizer
from splitfrozen_edge.pushing.collect import ShardHeader
from tests.edge.conftest import write_sentences


def test_a_file_that_changed_between_the_readings_is_refused(
    tmp_path: Path, encoder_bundle: Path
) -> None:
    bundle = read_bundle(encoder_bundle)
    tokenizer = Tokenizer.from_file(bundle.path("tokenizer.json"))
    rules, size = bundle.manifest.preprocess, bundle.manifest.vocab_size
    preparer = Preparer(
        Preprocessor(rules, tokenizer, task="classification", vocab_size=size),
        ShardHeader(bundle.id, "ds", 2, "int8", "classification", 16),
        key=bytes(32),
        max_length=32,
        strict=False,
    )
    source = Source(write_sentences(tmp_path / "d.jsonl", 3, label="new"), "classification")
    with pytest.raises(DataError, match=r"d\.jsonl:1: the file changed while it was read"):
        preparer.prepare(source, names={"old": "old"}, known=set())
