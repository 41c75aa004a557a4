"""Properties of truncation, and the rules that vectors of one row cannot show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitfrozen import read_bundle
from splitfrozen.errors import DataError, ManifestError
from splitfrozen_edge.data.preprocess import Preprocessor, cut_texts, cut_turns
from splitfrozen_edge.data.template import ChatTemplate
from splitfrozen_edge.data.tokenizer import Tokenizer

SIZES = st.integers(0, 20)


@given(first=SIZES, second=SIZES, room=st.integers(0, 50))
def test_a_pair_is_cut_as_if_token_by_token(first: int, second: int, room: int) -> None:
    parts: list[int | None] = [None, *[0] * first, None, *[1] * second, None]
    left = [first, second]
    while sum(left) > room:
        equals_lose = 0 if first <= second else 1
        left[equals_lose if left[0] == left[1] else left.index(max(left))] -= 1
    if room == 0 and first + second:
        with pytest.raises(DataError, match="special tokens"):
            cut_texts(range(len(parts)), parts, 3)
        return
    kept = cut_texts(range(len(parts)), parts, room + 3)
    sources = [parts[index] for index in kept]
    assert [sources.count(0), sources.count(1), sources.count(None)] == [*left, 3]
    assert kept == sorted(kept)
    assert [i for i in kept if parts[i] == 0] == list(range(1, 1 + left[0]))


@given(head=st.integers(0, 3), prompt=SIZES, answer=SIZES, limit=st.integers(3, 50))
def test_turns_fill_the_limit_and_keep_the_newest_of_the_prompt(
    head: int, prompt: int, answer: int, limit: int
) -> None:
    asked, answered = cut_turns(head, range(prompt), range(answer), limit)
    assert head + len(asked) + len(answered) == min(limit, head + prompt + answer)
    assert list(asked) == list(range(prompt))[prompt - len(asked) :]
    assert list(answered) == list(range(answer))[: len(answered)]
    assert len(answered) == answer or not asked


def test_transformers_gives_the_same_ids(encoder_bundle: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    stock = PreTrainedTokenizerFast(
        tokenizer_file=str(encoder_bundle / "tokenizer.json"), pad_token="[PAD]"
    )
    preprocessor = make(encoder_bundle, "classification")
    long = "the barn and a bird " * 9
    pairs = (("the", None), (long, None), ("a", long), (long, "on"), (long, long))
    for text, pair in pairs:
        row = {"text": text} | ({"text_pair": pair} if pair else {})
        expected = stock(text, pair, truncation="longest_first", max_length=32)["input_ids"]
        assert preprocessor.encode(row).ids.tolist() == expected


def test_transformers_renders_the_same_chat() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    source = (
        "{{ bos_token }}{%- for message in messages %}\n    {%- if message.role == 'user' %}\n"
        "[{{ message | tojson }}]\n    {%- else %}\n{{ message.content | trim }}{% continue %}X\n"
        "    {%- endif %}\n{%- endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    talk = [{"role": "user", "content": "grün\n"}, {"role": "assistant", "content": " a "}]
    for ask in (True, False):
        (expected,), _ = render_jinja_template(
            [talk], chat_template=source, add_generation_prompt=ask, bos_token="<s>"
        )
        assert ChatTemplate(source, {"bos_token": "<s>"}).render(talk, ask=ask) == expected


def test_a_template_cannot_read_the_clock() -> None:
    template = ChatTemplate("{{ strftime_now('%Y-%m-%d %H:%M') }}", {})
    assert template.render([], ask=False) == "2026-01-01 00:00"


def test_a_broken_template_is_a_data_error() -> None:
    with pytest.raises(DataError, match="chat template is broken"):
        ChatTemplate("{% for %}", {})


def test_a_broken_tokenizer_is_a_manifest_error() -> None:
    with pytest.raises(ManifestError, match=r"tokenizer\.json is broken"):
        Tokenizer(json.dumps({"version": "1.0"}))


def make(directory: Path, task: str) -> Preprocessor:
    bundle = read_bundle(directory)
    tokenizer = Tokenizer.from_file(bundle.path("tokenizer.json"))
    rules, size = bundle.manifest.preprocess, bundle.manifest.vocab_size
    return Preprocessor(rules, tokenizer, task=task, vocab_size=size)


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 10**9 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    ],
)
def test_a_template_out_of_bounds_is_refused(source: str) -> None:
    with pytest.raises(DataError, match="the chat template refuses"):
        ChatTemplate(source, {}).render([], ask=False)
