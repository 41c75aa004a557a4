"""What a device segment costs a real language model, in nats per token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from splitfrozen import SplitFrozenError
from splitfrozen_export.measure.limits import judge_loss
from splitfrozen_export.measure.loss import LossReport, cut_windows, measure_loss, run_windows
from splitfrozen_export.preprocess import read_text_side
from splitfrozen_export.request import Request
from splitfrozen_export.split import load_server_segment, resolve_model
from splitfrozen_export.steps import ignore_parts
from tests.export.conftest import Traced


@pytest.fixture(scope="module")
def windows(stories: Path, shared_data: Path) -> list[list[int]]:
    text = (shared_data / "text" / "tinystories_944k.txt").read_text("utf-8")[:40_000]
    ids = read_text_side(resolve_model(stories)).tokenizer.encode(text, add_special_tokens=False)
    return cut_windows(ids.ids, prefix=(1,), max_length=256, path=Path("t"))


def measure(stories: Path, traced: Traced, precision: str, windows: list[list[int]]) -> LossReport:
    return measure_loss(
        traced.graph(precision),
        load_server_segment(resolve_model(stories), 2, "causal_lm"),
        windows,
        run_windows(traced.segment, windows),
        wire="int8",
        on_part=ignore_parts,
    )


def test_fp32_costs_nothing_and_the_loss_is_that_of_the_stock_model(
    stories: Path, traced_stories: Traced, windows: list[list[int]]
) -> None:
    loss = measure(stories, traced_stories, "fp32", windows)
    model = AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32)
    ids = torch.tensor(windows)
    with torch.no_grad():
        stock = float(model(input_ids=ids, labels=ids).loss)
    assert loss.whole == pytest.approx(stock, abs=1e-5)
    assert abs(loss.device_gap) < 1e-5
    assert 0 < abs(loss.wire_gap) < 0.002
    assert loss.tokens == sum(len(window) - 1 for window in windows)


def test_int8_costs_less_than_a_hundredth_of_a_nat(
    stories: Path, traced_stories: Traced, windows: list[list[int]]
) -> None:
    loss = measure(stories, traced_stories, "int8", windows)
    assert loss.wire != loss.whole
    assert abs(loss.wire_gap) < 0.01
    assert loss.wire_gap == pytest.approx(loss.wire - loss.whole)


def test_a_loss_above_the_limit_of_its_precision_is_refused() -> None:
    request = Request("m", 2, Path("out"), precision="int8")
    loss = LossReport(2.0, 2.1, 2.2, 0.1, 0.2, tokens=100, windows=1)
    with pytest.raises(SplitFrozenError, match=r"int8 costs 0\.2 nats per token") as refused:
        judge_loss(loss, request)
    assert refused.value.code == "check_failed"
    judge_loss(loss, replace(request, max_loss_gap=0.3))
    with pytest.raises(SplitFrozenError):
        judge_loss(replace(loss, wire_gap=float("nan")), replace(request, max_loss_gap=0.3))
