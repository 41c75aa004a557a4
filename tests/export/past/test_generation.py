"""A story told by two halves: lower keys and values on the device, upper ones on the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from splitfrozen.quantize import dequantize_int8
from splitfrozen_export.past.decode import Decoder
from splitfrozen_export.split import (
    ServerSegment,
    load_server_segment,
    resolve_model,
    run_segment,
    start_cache,
)
from tests.export.past.conftest import Pair

PROMPT = "Once upon a time, there was a little girl"
TOKENS = 30


@pytest.fixture(scope="module")
def prompt(stories: Path) -> list[int]:
    ids: list[int] = Tokenizer.from_file(str(stories / "tokenizer.json")).encode(PROMPT).ids
    return ids


@pytest.fixture(scope="module")
def upper(stories: Path) -> ServerSegment:
    return load_server_segment(resolve_model(stories), 2, "causal_lm")


@pytest.fixture(scope="module")
def stock(stories: Path, prompt: list[int]) -> list[int]:
    """What stock Transformers generates greedily from the whole model."""
    model: Any = AutoModelForCausalLM.from_pretrained(stories)
    with torch.no_grad():
        told = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=0,
        )
    ids: list[int] = told[0, len(prompt) :].tolist()
    return ids


def test_fp32_tells_the_story_of_the_whole_model_word_by_word(
    stories_pair: Pair, upper: ServerSegment, prompt: list[int], stock: list[int]
) -> None:
    assert len(stock) == TOKENS
    assert generate(stories_pair.cached("fp32"), upper, prompt, wire="fp32") == stock


def test_int8_over_the_int8_wire_begins_the_same_story(
    stories_pair: Pair, upper: ServerSegment, prompt: list[int], stock: list[int]
) -> None:
    told = generate(stories_pair.cached("int8"), upper, prompt, wire="int8")
    assert len(told) == TOKENS
    assert told[:4] == stock[:4]


@torch.no_grad()
def generate(
    session: ort.InferenceSession, upper: ServerSegment, prompt: list[int], *, wire: str
) -> list[int]:
    """Greedy: the device feeds one token, the server answers with the next."""
    device, cache = Decoder(session), start_cache(upper)
    told: list[int] = []
    mask = torch.zeros(1, 0, dtype=torch.int64)
    while len(told) < TOKENS:
        new = [told[-1]] if told else prompt
        sent = device.feed(np.array([new], np.int64))
        hidden = sent["hidden"]
        if wire == "int8":
            hidden = dequantize_int8(sent["hidden_q"][0], sent["scale"][0])[None]
        mask = torch.cat([mask, torch.ones(1, len(new), dtype=torch.int64)], dim=1)
        logits = run_segment(upper, torch.from_numpy(hidden), mask, cache=cache)
        told.append(int(logits[0, -1].argmax()))
    return told
