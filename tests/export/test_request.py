"""Wishes that do not go together are refused in words, before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export.commands import run


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "--cut says how many blocks run on the device"),
        (["--cut", "1", "--whole", "--segment", "server"], "give one of the two"),
        (["--cut", "1", "--adapter", "."], "give it with --whole or --segment server"),
        (["--cut", "1", "--precision", "fp32", "--calibrate", "rows"], "none is coded"),
        (["--cut", "1", "--precision", "int4", "--reduce-range"], "int4 has none"),
        (["--cut", "1", "--precision", "fp32", "--keep-fp", "x"], "with --precision fp32 all"),
        (["--cut", "1", "--keep-fp", "auto"], "give --calibrate FILE.jsonl"),
        (["--cut", "1", "--max-loss-gap", "1"], "limits what --eval FILE measures"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows").write_text("text")
    assert run("--model", "/no/such/model", "--output", "bundle", *options) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_a_cut_changes_nothing_of_a_whole_model_and_the_output_says_so(
    tiny_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["--model", tiny_model("gpt2"), "--output", tmp_path / "home", "--whole", "--dry-run"]
    assert run(*wanted) == 0
    plain = capsys.readouterr().out
    assert run(*wanted, "--cut", 2) == 0
    assert capsys.readouterr().out == (
        plain + "Note: --whole takes all blocks; --cut 2 changes nothing\n"
    )


def test_an_encoder_has_no_loss_to_measure(
    minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("some text")
    wanted = [
        "--model",
        minilm,
        "--cut",
        4,
        "--output",
        tmp_path / "b",
        "--eval",
        tmp_path / "text",
    ]
    assert run(*wanted) == 2
    assert "(bert) is an encoder: leave it out" in capsys.readouterr().err
