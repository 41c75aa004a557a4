"""The golden vectors of text -> token ids, run with the real tokenizers library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splitfrozen.errors import SplitFrozenError
from splitfrozen.manifest import Preprocess
from splitfrozen_edge.data.preprocess import Preprocessor
from splitfrozen_edge.data.tokenizer import Tokenizer

FOLDER = Path(__file__).parents[2] / "protocol" / "vectors" / "preprocess"
VECTORS = sorted(FOLDER.glob("*.json"))


def test_all_vectors_are_here_and_small() -> None:
    assert len(VECTORS) >= 29
    assert max(path.stat().st_size for path in VECTORS) <= 2048


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_a_row_gives_the_vectors_ids_and_targets(path: Path) -> None:
    vector = json.loads(path.read_text())
    if vector["expect"] != "ok":
        with pytest.raises(SplitFrozenError) as caught:
            encode(vector)
        assert caught.value.code == vector["expect"]
        return
    encoded = encode(vector)
    assert encoded.ids.tolist() == vector["ids"]
    if vector["targets"] is not None:
        assert encoded.targets().tolist() == vector["targets"]


def encode(vector: dict[str, Any]) -> Any:
    rules = vector["preprocess"]
    preprocess = Preprocess(**{**rules, "prefix_ids": tuple(rules["prefix_ids"])})
    tokenizer = Tokenizer(json.dumps(vector["tokenizer"]))
    task, size = vector["task"], vector["vocab_size"]
    return Preprocessor(preprocess, tokenizer, task=task, vocab_size=size).encode(vector["row"])
