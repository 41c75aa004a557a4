"""Tokens -> text while they come: any text in any chunking comes out the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from splitfrozen_edge.data.tokenizer import Tokenizer as BundleTokenizer
from splitfrozen_edge.inference.stream import StopFilter, StreamDecoder

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.lists(
    st.sampled_from(
        ["the", " bird", " über", "😀", "👩‍🚀", "漢字", "\n", "  ", "e\u0301", "\ufffd", "a"]
    ),
    max_size=200,
).map("".join)


def byte_level() -> Tokenizer:
    """As gpt2: a token is a run of bytes, a space belongs to the word behind it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "b"), ("ð", "Ł")]
    vocab = {piece: index for index, piece in enumerate([*alphabet, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As llama: a space is ▁, the first one is not written, unknown characters are bytes."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abdehirt", "▁b", "th"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", "b"), ("t", "h")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), _strip()]
    )
    return tokenizer


def _strip() -> decoders.Decoder:
    return decoders.Strip(" ", 1, 0)


TOKENIZERS = {"byte-level": byte_level(), "sentencepiece": sentencepiece()}


def stream(tokenizer: Tokenizer, ids: Sequence[int], context: Sequence[int] = ()) -> list[str]:
    decoder = StreamDecoder(tokenizer.decode, context)
    return [*(decoder.feed(token) for token in ids), decoder.finish()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_the_pieces_of_any_text_joined_are_the_text(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    pieces = stream(tokenizer, tokenizer.encode(text).ids)
    assert "".join(pieces) == text


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(before=TEXTS, after=TEXTS)
def test_what_continues_a_text_begins_where_it_ends(kind: str, before: str, after: str) -> None:
    tokenizer = TOKENIZERS[kind]
    context = tokenizer.encode(before).ids
    ids = tokenizer.encode(before + after).ids
    if not context or ids[: len(context)] != context:
        return  # no token boundary lies there
    assert "".join(stream(tokenizer, ids[len(context) :], context)) == after


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_no_piece_ends_inside_a_character(kind: str) -> None:
    tokenizer, text = TOKENIZERS[kind], "über 😀 漢字 👩‍🚀 the bird"
    pieces = stream(tokenizer, tokenizer.encode(text).ids)
    assert not any("\ufffd" in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 10  # and it does come piece by piece


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 259), max_size=300))
def test_any_tokens_at_all_give_what_decoding_them_together_gives(ids: list[int]) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.encode("a😀").ids[:-1]
    assert stream(tokenizer, ids) == ["a", *[""] * (len(ids) - 1), "\ufffd"]


def test_a_long_text_does_not_decode_all_of_itself_for_every_token() -> None:
    tokenizer, longest = TOKENIZERS["byte-level"], 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return str(tokenizer.decode(ids))

    decoder = StreamDecoder(decode)
    text = "the bird and 😀 " * 100
    found = "".join(decoder.feed(token) for token in tokenizer.encode(text).ids)
    assert found == text
    assert longest < 150


STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


@settings(max_examples=400, deadline=None)
@given(text=st.text("ab\n", max_size=40), stops=STOPS, seed=st.integers(0, 99))
def test_text_ends_exactly_before_the_first_stop_string(
    text: str, stops: list[str], seed: int
) -> None:
    found = StopFilter(stops)
    shown, at, rng = "", 0, random.Random(seed)
    while at < len(text):
        size = rng.randint(1, 5)
        shown += found.feed(text[at : at + size])
        at += size
    shown += found.finish()
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert shown == (text[: min(ends)[1]] if ends else text)
    assert found.stopped == bool(ends)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    found = StopFilter(["\n\nUser:"])
    assert found.feed("Hello") == "Hello"
    assert found.feed(" there\n") == " there"
    assert found.feed("\n") == ""
    assert found.feed("More") == "\n\nMore"
    assert found.feed("\n\nUser: hi") == ""
    assert found.stopped
    assert found.feed("more") == found.finish() == ""


@pytest.mark.parametrize("model", ["gpt2-tokenizer", "stories260K"])
def test_real_tokenizers_too(model: str, shared_models: Path) -> None:
    tokenizer = BundleTokenizer.from_file(shared_models / model / "tokenizer.json")
    parts = ["the ", "bird", "\n", "  ", "😀", "👩‍🚀", "漢字", "é", "e\u0301", "\ufffd", "ב", "🇫🇷"]
    rng = random.Random(0)
    for _ in range(100):
        text = "".join(rng.choices(parts, k=rng.randint(1, 120)))
        decoder = StreamDecoder(tokenizer.decode)
        pieces = [decoder.feed(token) for token in tokenizer.encode_plain(text)]
        assert "".join([*pieces, decoder.finish()]) == text
