"""Calibration, layers kept in fp32, a measured loss and a dry run, of wholes and upper halves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from splitfrozen.errors import SplitFrozenError
from splitfrozen_export.home import HomeResult
from splitfrozen_export.home.answering import WholeDecoder
from splitfrozen_export.home.calibrate import calibrate_answering
from splitfrozen_export.home.check import _Tally, batch_size
from splitfrozen_export.home.plan import make_home_plan
from splitfrozen_export.home.trace import trace_answering
from splitfrozen_export.measure.closeness import measure_closeness
from splitfrozen_export.precision.products import find_products
from splitfrozen_export.request import Request
from splitfrozen_export.split import load_whole_model, resolve_model
from splitfrozen_export.steps import ignore_parts
from tests.export.commands import run
from tests.export.home.adapters import stock_answers, write_adapter
from tests.export.home.conftest import take_home
from tests.tiny_models import write_tiny_model

KINDS = {"whole": {"whole": True, "cut": 0}, "half": {"segment": "server", "cut": 1}}
ROWS = "".join(
    json.dumps({"text": text}) + "\n"
    for text in ("the rain in town", "seven old bells ring", "a train is late", "no", "2 + 2 = 4")
)


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with one channel of its last MLP's input 500 times as large as the others."""
    model = write_tiny_model("gpt2", tmp_path_factory.mktemp("loud") / "model", n_layer=2)
    file = model / "model.safetensors"
    tensors = load_file(file)
    (norm,) = (name for name in tensors if name.endswith("h.1.ln_2.weight"))
    tensors[norm][3] *= 500
    tensors[norm.replace("ln_2", "mlp.c_fc")][3] /= 500
    save_file(tensors, file, {"format": "pt"})
    return model


@pytest.fixture(scope="module")
def loud_homes(
    loud: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, bool], HomeResult]:
    """It as int8, whole or the upper half, plain or calibrated."""
    known: dict[tuple[str, bool], HomeResult] = {}
    directory = tmp_path_factory.mktemp("loud-homes")
    (directory / "rows.jsonl").write_text(ROWS)

    def home(kind: str, calibrated: bool) -> HomeResult:
        if (kind, calibrated) not in known:
            rows = directory / "rows.jsonl" if calibrated else None
            output = directory / f"{kind}-{calibrated}"
            known[kind, calibrated] = take_home(
                loud, output, calibrate=rows, max_error=9.0, **KINDS[kind]
            )
        return known[kind, calibrated]

    return home


@pytest.mark.parametrize("kind", ["whole", pytest.param("half", marks=pytest.mark.long)])
def test_calibration_cures_a_channel_that_drowns_the_others(
    kind: str, loud_homes: Callable[[str, bool], HomeResult]
) -> None:
    plain, calibrated = (loud_homes(kind, known).record for known in (False, True))
    assert plain["coverage"]["smoothed"] == 0 < calibrated["coverage"]["smoothed"]
    assert plain["calibration"] is None and len(calibrated["calibration"]) == 64
    errors = [record["report"]["relative_error"] for record in (plain, calibrated)]
    assert errors[1] < 0.5 * errors[0]


def test_calibration_knows_every_product_by_its_name_in_the_graph(
    shallow: Callable[[str], Path],
) -> None:
    """Also the head of GPT-2, which shares the token table."""
    module = WholeDecoder(load_whole_model(resolve_model(shallow("gpt2")), "causal_lm"))
    known = calibrate_answering(module, "transformer", [[3, 4, 5], [6]], ignore_parts)
    products = find_products(trace_answering(module, "transformer", opset=None).graph)
    assert {product.layer for product in products} == set(known.largest)
    assert "lm_head" in known.largest
    assert all(len(known.rows[p.layer][0]) == p.weight.read().shape[0] for p in products)


@pytest.mark.parametrize("kind", ["whole", pytest.param("half", marks=pytest.mark.long)])
def test_the_forecast_comes_true(
    kind: str,
    loud: Path,
    loud_homes: Callable[[str, bool], HomeResult],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And needs no weights: the head shares its codes with the table."""
    written = loud_homes(kind, False).directory
    options = ["--whole"] if kind == "whole" else ["--segment", "server", "--cut", 1]
    wanted = ["--model", loud, "--output", tmp_path / "out", "--dry-run", *options]
    assert run(*wanted, "--format", "json") == 0
    plan = json.loads(capsys.readouterr().out)
    (data,) = written.glob("*.onnx.data")
    assert data.stat().st_size == pytest.approx(plan["data_bytes"], rel=0.15)  # padding shows
    assert plan["fp32_bytes"] == 4 * plan["parameters"] > 3 * plan["data_bytes"]
    assert plan["task"] == "causal_lm" and not (tmp_path / "out").exists()
    assert run(*wanted) == 0
    assert "Dry run: nothing is read or written." in capsys.readouterr().out


def test_the_measured_loss_is_that_of_the_stock_model_with_its_adapter(
    shallow: Callable[[str], Path], gpt2_adapter: Path, gpt2_home: HomeResult, home_text: Path
) -> None:
    loss = gpt2_home.record["loss"]
    model = stock_answers(shallow("gpt2"), gpt2_adapter)
    request = Request(
        str(shallow("gpt2")), 0, gpt2_home.directory, whole=True, eval=home_text, force=True
    )
    windows = torch.tensor(make_home_plan(request).windows)
    with torch.no_grad():
        stock = float(model(input_ids=windows, labels=windows).loss)
    assert loss["torch"] == pytest.approx(stock, abs=1e-5)
    assert abs(loss["gap"]) < 1e-5
    assert loss["tokens"] == windows[:, 1:].numel() > 50
    assert any("nats per token" in line for line in gpt2_home.summary_lines())


def test_a_classifier_has_no_loss_of_next_tokens(
    shallow: Callable[[str], Path], home_text: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(shallow("bert"), tmp_path / "adapter", "SEQ_CLS", layers=(1,))
    with pytest.raises(SplitFrozenError, match="classifies here: leave it out"):
        take_home(shallow("bert"), tmp_path / "home", adapter=adapter, eval=home_text)


def test_a_large_vocabulary_runs_in_small_batches(shallow: Callable[[str], Path]) -> None:
    module = WholeDecoder(load_whole_model(resolve_model(shallow("gpt2")), "causal_lm"))
    long = [[0] * 128] * 4
    assert batch_size(module, long, 4) == 4
    module.model.config.vocab_size = 128_256
    assert batch_size(module, long, 4) == 2
    assert batch_size(module, [[0] * 4096], 4) == 1


def test_sums_over_pieces_are_those_over_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, noise = np.random.default_rng(0).normal(size=(2, 50, 30)).astype(np.float32)
    found = wanted + noise / 10
    monkeypatch.setattr("splitfrozen_export.home.check._VALUES", 7 * 30)
    tally = _Tally()
    tally.add(wanted[:20], found[:20])
    tally.add(wanted[20:], found[20:])
    report = tally.report()
    expected = measure_closeness(wanted, found).relative_error
    assert report.relative_error == pytest.approx(expected, rel=1e-9)
    assert report.largest_difference == pytest.approx(np.abs(found - wanted).max(), rel=1e-6)
    assert report.same_choice == (wanted.argmax(1) == found.argmax(1)).mean()
    assert report.compared == 50


@pytest.mark.long
@pytest.mark.parametrize(("precision", "noise"), [("int8", 1.03), ("int4", 1.0)])
def test_calibration_helps_the_real_small_llama(
    precision: str, noise: float, stories: Path, shared_data: Path, tmp_path: Path
) -> None:
    """Held-out sentences; it has no outliers, so int8 gains nothing that noise does not."""
    text = (shared_data / "text" / "tinystories_944k.txt").read_text("utf-8")
    lines = [line.strip() for line in text.splitlines() if len(line) > 60][:120]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"text": line}) + "\n" for line in lines[60:])
    )
    (tmp_path / "held-out.txt").write_text("\n".join(lines[:24]))
    options = {"precision": precision, "eval_text": tmp_path / "held-out.txt"}
    plain = take_home(stories, tmp_path / "plain", **options).record
    rows = tmp_path / "rows.jsonl"
    calibrated = take_home(
        stories, tmp_path / "calibrated", calibrate=rows, keep_fp=("auto",), **options
    ).record
    errors = [record["report"]["relative_error"] for record in (plain, calibrated)]
    assert errors[1] < noise * errors[0]
    choices = [record["report"]["same_choice"] for record in (plain, calibrated)]
    assert choices[1] > choices[0] - 0.01
