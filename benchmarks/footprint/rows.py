"""Rows of random everyday words: sentences of a few words to a few paragraphs, labelled."""

from __future__ import annotations

import json
import random
from pathlib import Path

# fmt: off
_WORDS = (
    "the", "a", "and", "but", "then", "while", "because", "under", "between", "old", "new", "red",
    "small", "large", "heavy", "quiet", "quick", "market", "river", "engine", "window", "letter",
    "garden", "machine", "sensor", "kitchen", "street", "winter", "light", "number", "answer",
    "question", "water", "paper", "morning", "measured", "opened", "closed", "repaired",
    "remembered", "said", "asked", "found", "waited", "worked",
)
# fmt: on
LABELS = ("a", "b")


def write_rows(path: Path, count: int, *, words: tuple[int, int], seed: int = 0) -> Path:
    """Write a .jsonl of `count` rows with between words[0] and words[1] words; no two are alike."""
    source = random.Random(seed)
    with path.open("w") as stream:
        for number in range(count):
            length = source.randint(*words)
            text = f"{number} " + " ".join(source.choice(_WORDS) for _ in range(length))
            stream.write(json.dumps({"text": text, "label": LABELS[number % 2]}) + "\n")
    return path
