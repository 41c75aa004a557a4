"""The command splitfrozen-export as a user runs it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from splitfrozen import Bundle, read_bundle
from splitfrozen_export.request import Request, Result
from splitfrozen_export.summary import summary_lines
from tests.export.commands import PROGRAM, run
from tests.tiny_models import write_tiny_model

Models = Callable[[str], Path]


@pytest.fixture(scope="module")
def wanted(tiny_model: Models) -> list[object]:
    return ["--model", tiny_model("opt"), "--cut", 1]


@dataclass(frozen=True)
class Export:
    """One finished run of the command with --format json."""

    bundle: Bundle
    output: str
    errors: str


@pytest.fixture(scope="module")
def finished(wanted: list[object], tmp_path_factory: pytest.TempPathFactory) -> Export:
    target = tmp_path_factory.mktemp("finished") / "bundle"
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        code = run(*wanted, "--output", target, "--prove", "twin", "--format", "json")
    assert code == 0, errors.getvalue()
    return Export(read_bundle(target), output.getvalue(), errors.getvalue())


def test_an_export_writes_a_bundle_and_says_so_as_json(finished: Export) -> None:
    summary = json.loads(finished.output)
    directory = finished.bundle.directory
    assert summary["bundle"] == finished.bundle.id
    assert summary["files"] == {
        name: (directory / name).stat().st_size
        for name in ("device.onnx", "device.onnx.data", "device_with_past.onnx", "tokenizer.json")
    }
    assert summary["size"] == sum(summary["files"].values())
    assert "Proving the cut" in finished.errors


def test_the_manifest_tells_what_was_made_and_how_well_it_measured(finished: Export) -> None:
    manifest = finished.bundle.manifest
    assert (manifest.family, manifest.architecture) == ("opt", "decoder")
    assert (manifest.cut, manifest.num_layers, manifest.hidden_size) == (1, 4, 32)
    assert (manifest.precision, manifest.wire, manifest.opset) == ("int8", "int8", 23)
    assert manifest.base_model.id == "opt"  # the directory's name, not its path
    assert manifest.preprocess.prefix_ids == (1,)
    report = manifest.report
    assert (report["twin_difference"], report["real_difference"]) == (0.0, None)
    assert (report["neighbour_difference"], report["later_token_difference"]) == (0.0, 0.0)
    assert 0 < report["relative_error"] <= report["worst_token"] < 0.2
    assert (report["coverage"]["products"], report["coverage"]["tables"]) == (6, 2)


def test_an_fp32_export_for_a_person_ends_with_the_next_commands(
    wanted: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "texts.txt"
    own.write_text("the boat\n\nand the other boat\n")
    target = tmp_path / "bundle"
    options = ["--precision", "fp32", "--wire", "bf16", "--prove", "full", "--eval-text", own]
    options += ["--no-generation"]
    assert run(*wanted, "--output", target, *options) == 0
    output = capsys.readouterr().out
    assert "difference 0.0 on a random model of the same shape, 0.0 on the weights" in output
    assert "(limit of fp32: 0.0001)" in output
    assert "Closer:" not in output
    assert output.splitlines()[-3:] == [
        f"Next: splitfrozen-server models add opt {Path(str(wanted[1])).resolve()}",
        f"      splitfrozen-server bundles add {target}",
        f"      or from another machine: splitfrozen-bundle publish {target} --server URL",
    ]
    manifest = read_bundle(target).manifest
    assert (manifest.wire, manifest.wire_codecs) == ("bf16", ("bf16", "fp32"))
    assert manifest.report["eval_text"] == "given"


def test_a_large_error_is_shown_beside_its_limit_with_the_way_out(
    finished: Export, wanted: list[object]
) -> None:
    manifest = finished.bundle.manifest
    request = Request(str(wanted[1]), 1, finished.bundle.directory)

    def lines(**measured: object) -> list[str]:
        changed = replace(manifest, report={**manifest.report, **measured})
        return summary_lines(Result(request.output, finished.bundle.id, changed), request)

    closer = "Closer:    --calibrate FILE.jsonl, or --precision int8-hq"
    assert any(
        "relative error 0.041 (limit of int8: 0.08)" in x for x in lines(relative_error=0.041)
    )
    assert closer in lines(relative_error=0.041)
    assert closer not in lines(relative_error=0.039)
    calibrated = {**manifest.report["recipe"], "calibration": "0" * 64}
    assert closer not in lines(relative_error=0.041, recipe=calibrated)
    assert any("6 matrix products in int8" in line for line in lines())


def test_an_error_above_the_limit_leaves_nothing(
    wanted: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "bundle"
    options = ["--output", target, "--prove", "twin", "--max-error", 1e-4]
    assert run(*wanted, *options) == 1
    assert (
        "your --max-error 0.0001 (int8's own limit: 0.08); no bundle was written. "
        "Try --calibrate FILE.jsonl, then --precision int8-hq, then a higher --max-error"
    ) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--cut", "4"], "choose a cut from 1 to 3"),
        (["--cut", "0"], "0 is not in the range x>=1"),
        (["--max-length", "513"], "more than the model's 512 positions"),
        (["--model", "/no/such/model"], "no directory '/no/such/model'"),
        (["--precision", "int2"], "'int2' is not one of"),
        (["--eval-text", "/no/such/file"], "does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    wanted: list[object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    reason: str,
) -> None:
    assert run(*wanted, "--output", tmp_path / "bundle", *options) == 2
    output, errors = capsys.readouterr()
    assert reason in errors
    assert "Proving" not in errors
    assert output == ""
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_shares_its_layers_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(
        vocab_size=128,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
    )
    AlbertModel(config).save_pretrained(tmp_path / "albert")
    asked = ["--model", tmp_path / "albert", "--cut", 2, "--output", tmp_path / "bundle"]
    assert run(*asked) == 2
    assert "shared or unlisted layers cannot be cut" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_a_text_file_without_text_is_refused(
    wanted: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    options = ["--output", tmp_path / "bundle", "--eval-text", tmp_path / "empty.txt"]
    assert run(*wanted, *options) == 2
    assert "empty.txt: has no text" in capsys.readouterr().err


def test_a_tokenizer_of_another_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write_tiny_model("opt", tmp_path / "small", vocab_size=100)
    asked = ["--model", directory, "--cut", 1, "--output", tmp_path / "bundle"]
    assert run(*asked) == 2
    assert "they do not belong together" in capsys.readouterr().err


def test_help_is_written_for_a_person() -> None:
    command = [sys.executable, "-X", "importtime", "-c", PROGRAM, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Exit codes: 0 written" in done.stdout
    assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
