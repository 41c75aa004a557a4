"""Decoding token by token on the server segment equals running the whole text at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from splitfrozen_export.split import (
    load_device_segment,
    load_server_segment,
    resolve_model,
    run_segment,
    start_cache,
)
from tests.split.inputs import make_ids, make_mask
from tests.tiny_models import DECODERS

PREFILL = 5


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_prefill_then_single_tokens_equal_one_run(
    tiny_model: Callable[[str], Path], family: str, *, atol: float = 2e-5
) -> None:
    source = resolve_model(tiny_model(family))
    server = load_server_segment(source, 2, "causal_lm")
    mask = make_mask("ones")
    hidden = load_device_segment(source, 2)(make_ids(source.config, mask), mask)
    cache = start_cache(server)
    pieces = [run_segment(server, hidden[:, :PREFILL], mask[:, :PREFILL], cache=cache)]
    for end in range(PREFILL + 1, hidden.shape[1] + 1):
        step = run_segment(server, hidden[:, end - 1 : end], mask[:, :end], cache=cache)
        pieces.append(step)
    expected = run_segment(server, hidden, mask)
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen2"])
@torch.no_grad()
def test_left_padded_prefill_keeps_positions(
    tiny_model: Callable[[str], Path], family: str, *, atol: float = 2e-5
) -> None:
    source = resolve_model(tiny_model(family))
    server = load_server_segment(source, 2, "causal_lm")
    mask = make_mask("left")
    hidden = load_device_segment(source, 2)(make_ids(source.config, mask), mask)
    cache = start_cache(server)
    run_segment(server, hidden[:, :-1], mask[:, :-1], cache=cache)
    last = run_segment(server, hidden[:, -1:], mask, cache=cache)
    expected = run_segment(server, hidden, mask)[:, -1:]
    torch.testing.assert_close(last, expected, atol=atol, rtol=1e-4)
