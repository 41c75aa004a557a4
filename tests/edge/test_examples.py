"""The second reading of a data file."""

from __future__ import annotations

from pathlib import Path

from splitfrozen import read_bundle
from splitfrozen_edge.data.examples import Preparer, Tally
from splitfrozen_edge.data.preprocess import Preprocessor
from splitfrozen_edge.data.rows import Source, read_rows
from splitfrozen_edge.data.tokenizer import Tokenizer
from splitfrozen_edge.pushing.collect import ShardHeader
from splitfrozen_edge.pushing.naming import FileLabels
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
    told: list[str] = []
    examples = preparer.prepare(
        read_rows(source),
        FileLabels({"old": "old"}),
        path=str(source.path),
        is_known=lambda example: False,
        occurrence=lambda first: 0,
        on_bad_row=lambda error: told.append(str(error)),
        tally=Tally(),
    )
    assert list(examples) == []
    assert f"{source.path}:1: the file changed while it was read" in told[0]
