"""The smart-home sentences keep the promises of their README."""

import json
import re
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples" / "smart_home"
GERMAN = re.compile(r"\b(ich|ist|die|der|das|den|bitte|wir|und|im|am|wie|was|mir|auf|es)\b")


def _read(name: str) -> list[tuple[str, str]]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(set(row) == {"text", "label"} for row in rows)
    return [(row["text"], row["label"]) for row in rows]


TRAIN, HELDOUT = _read("train.jsonl"), _read("heldout.jsonl")


def _words(text: str) -> list[str]:
    """Lower-cased words without punctuation; an apostrophe joins ("I'm" is `im`)."""
    return re.findall(r"\w+", text.casefold().replace("'", ""))


def _runs_of_four(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}


def test_ten_intents_have_at_least_120_training_and_30_heldout_sentences() -> None:
    training, heldout = Counter(y for _, y in TRAIN), Counter(y for _, y in HELDOUT)
    assert len(training) == 10 and set(training) == set(heldout)
    assert min(training.values()) >= 120
    assert min(heldout.values()) >= 30


def test_every_intent_is_also_asked_for_in_german() -> None:
    for rows in (TRAIN, HELDOUT):
        german = Counter(label for text, label in rows if GERMAN.search(text.casefold()))
        assert len(german) == 10
        assert 0.1 <= sum(german.values()) / len(rows) <= 0.25


def test_at_most_ten_sentences_begin_with_the_same_three_words() -> None:
    patterns = Counter(tuple(_words(text)[:3]) for text, _ in TRAIN + HELDOUT)
    assert patterns.most_common(1)[0][1] <= 10


def test_at_most_ten_training_sentences_of_an_intent_begin_with_the_same_two_words() -> None:
    patterns = Counter((label, *_words(text)[:2]) for text, label in TRAIN)
    assert patterns.most_common(1)[0][1] <= 10


def test_no_sentence_occurs_twice() -> None:
    spoken = Counter(" ".join(_words(text)) for text, _ in TRAIN + HELDOUT)
    assert [text for text, times in spoken.items() if times > 1] == []


def test_no_two_sentences_are_the_same_but_for_a_word() -> None:
    words = [(text, set(_words(text))) for text, _ in TRAIN + HELDOUT]
    similar = [
        (text, other)
        for i, (text, left) in enumerate(words)
        for other, right in words[:i]
        if len(right) > 3 and 5 * len(left & right) >= 4 * len(left | right)
    ]
    assert similar == []


def test_no_heldout_sentence_shares_four_words_in_a_row_with_training() -> None:
    known = {run: text for text, _ in TRAIN for run in _runs_of_four(text)}
    shared = [(text, known[run]) for text, _ in HELDOUT for run in _runs_of_four(text) & set(known)]
    assert shared == []
