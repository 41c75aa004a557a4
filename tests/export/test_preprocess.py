"""What a device needs to turn text into the ids that Transformers would give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from splitfrozen import SplitFrozenError
from splitfrozen_export.blueprint import read_blueprint
from splitfrozen_export.preprocess import describe, read_text_side, write_tokenizer
from splitfrozen_export.split import resolve_model
from tests.tiny_models import FAMILIES, is_decoder, write_tiny_model

Models = Callable[[str], Path]
TEXTS = ("on the boat", "Hello, world! " * 90, "", "naïve Straße")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_written_tokenizer_gives_the_ids_of_transformers(
    tiny_model: Models, tmp_path: Path, family: str
) -> None:
    directory = tiny_model(family)
    write_tokenizer(read_text_side(resolve_model(directory)), tmp_path)
    written = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    stock = AutoTokenizer.from_pretrained(directory)
    for text in TEXTS:
        assert written.encode(text).ids == stock(text)["input_ids"]
        assert written.encode(text, "and").ids == stock(text, "and")["input_ids"]


def test_padding_and_truncation_of_a_real_tokenizer_are_gone(minilm: Path, tmp_path: Path) -> None:
    """MiniLM's own file pads every text to 128 tokens."""
    assert len(Tokenizer.from_file(str(minilm / "tokenizer.json")).encode("hello").ids) == 128
    side = read_text_side(resolve_model(minilm))
    assert side.encode("hello world") == [101, 7592, 2088, 102]
    assert len(side.encode("hello " * 1000)) == 1002
    assert (side.eos_token_id, side.pad_token_id) == (None, 0)


@pytest.mark.parametrize(("family", "expected"), [("llama", (1,)), ("gpt2", ()), ("bert", ())])
def test_prefix_ids_are_what_a_decoder_s_prompt_starts_with(
    tiny_model: Models, family: str, expected: tuple[int, ...]
) -> None:
    side = read_text_side(resolve_model(tiny_model(family)))
    described = describe(side, limit=512, max_length=None, causal=is_decoder(family))
    assert described.prefix_ids == expected
    assert described.truncation == "right"


def test_a_chat_template_travels_as_text(tiny_model: Models) -> None:
    source = resolve_model(tiny_model("qwen3"))
    stock = AutoTokenizer.from_pretrained(source.path)
    assert read_text_side(source).chat_template == stock.chat_template != None  # noqa: E711
    assert read_text_side(resolve_model(tiny_model("opt"))).chat_template is None


def test_a_bare_tokenizer_file_is_enough(stories: Path) -> None:
    """Its directory names no special tokens, so they come from the model's configuration."""
    side = read_text_side(resolve_model(stories))
    plain = Tokenizer.from_file(str(stories / "tokenizer.json"))
    assert side.encode("Once upon a time") == plain.encode("Once upon a time").ids
    assert (side.eos_token_id, side.pad_token_id) == (2, None)
    assert describe(side, limit=512, max_length=None, causal=True).prefix_ids == (1,)


def test_a_model_without_a_fast_tokenizer_is_refused(tiny_model: Models, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_model("gpt2") / name, tmp_path)
    with pytest.raises(SplitFrozenError, match="no fast tokenizer") as refused:
        read_text_side(resolve_model(tmp_path))
    assert refused.value.code == "model_not_supported"


@pytest.mark.parametrize(
    ("family", "limit"),
    [("bert", 512), ("roberta", 512), ("mpnet", 512), ("opt", 512), ("gpt2", 512), ("bloom", None)],
)
def test_the_limit_is_what_the_position_table_holds(
    tiny_model: Models, family: str, limit: int | None
) -> None:
    """RoBERTa and MPNet have 514 rows, of which the first two are no positions."""
    assert read_blueprint(resolve_model(tiny_model(family))).max_positions == limit


@pytest.mark.parametrize(
    ("limit", "wish", "expected"),
    [
        (512, None, 512),
        (64, None, 64),
        (None, None, 512),
        (2048, None, 512),
        (2048, 1024, 1024),
        (None, 4096, 4096),
    ],
)
def test_max_length_is_512_or_what_the_model_has_or_the_wish(
    tiny_model: Models, limit: int | None, wish: int | None, expected: int
) -> None:
    side = read_text_side(resolve_model(tiny_model("bert")))
    assert describe(side, limit=limit, max_length=wish, causal=False).max_length == expected


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("family", "rotary", "limit"),
    [
        ("phi3", {"original_max_position_embeddings": 64, "rope_parameters": LONGROPE}, 64),
        ("qwen3", {"max_position_embeddings": 128, "rope_parameters": DYNAMIC}, 128),
    ],
)
def test_a_text_never_grows_to_where_it_would_change_its_own_first_tokens(
    tmp_path: Path, family: str, rotary: dict[str, Any], limit: int
) -> None:
    source = resolve_model(write_tiny_model(family, tmp_path / family, **rotary))
    side, blueprint = read_text_side(source), read_blueprint(source)
    known = {"limit": blueprint.max_positions, "steady_only": blueprint.steady_only}
    assert blueprint.max_positions == limit
    assert describe(side, **known, max_length=None, causal=True).max_length == limit
    with pytest.raises(SplitFrozenError, match=f"{limit} positions") as refused:
        describe(side, **known, max_length=limit + 1, causal=True)
    assert ("depend on later tokens" in refused.value.message) == (family == "phi3")


@pytest.mark.parametrize(("said", "written"), [(-1, None), (128, None), (127, 127), ([-1, 5], 5)])
def test_a_padding_id_that_the_model_has_no_row_for_is_none(
    tiny_model: Models, tmp_path: Path, said: int | list[int], written: int | None
) -> None:
    """Old Llama configurations say -1; with it in a manifest no one could open the bundle."""
    shutil.copytree(tiny_model("llama"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").unlink()  # it would name the ids itself
    config = json.loads((tmp_path / "config.json").read_text())
    name = "eos_token_id" if isinstance(said, list) else "pad_token_id"
    (tmp_path / "config.json").write_text(json.dumps({**config, name: said}))
    assert getattr(read_text_side(resolve_model(tmp_path)), name) == written


def test_more_positions_than_the_model_has_are_refused(tiny_model: Models) -> None:
    side = read_text_side(resolve_model(tiny_model("bert")))
    with pytest.raises(SplitFrozenError, match="512 positions") as refused:
        describe(side, limit=512, max_length=513, causal=False)
    assert (refused.value.code, refused.value.param) == ("invalid_request", "max_length")
