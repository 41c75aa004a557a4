"""An export that is killed, interrupted or runs out of disk leaves nothing half-written."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from splitfrozen import SplitFrozenError, read_bundle
from splitfrozen_export import steps
from splitfrozen_export.export import export_bundle
from splitfrozen_export.request import Request
from tests.export.commands import run, start, wait_for

Models = Callable[[str], Path]


@pytest.fixture(scope="module")
def wanted(tiny_model: Models) -> list[object]:
    return ["--model", tiny_model("opt"), "--cut", 1, "--prove", "twin", "--no-generation"]


LATER = [
    pytest.param(name, marks=pytest.mark.long)
    for name in ("", "/device.onnx", "/tokenizer.json", "/splitfrozen.json")
]


@pytest.mark.parametrize("moment", ["/device.onnx.data", *LATER])
def test_a_killed_export_leaves_no_bundle_and_the_next_one_cleans_up(
    wanted: list[object], tmp_path: Path, moment: str
) -> None:
    target = tmp_path / "bundle"
    with start(*wanted, "--output", target) as process:
        wait_for(tmp_path, f".bundle.*.draft{moment}", process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    if moment != "/splitfrozen.json":
        assert not target.exists()
    elif target.exists():  # the last file was there: the rename may have come before the kill
        read_bundle(target)
    assert run(*wanted, "--output", target, "--force") == 0
    assert read_bundle(target).manifest.cut == 1
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_an_interrupted_export_cleans_up_behind_itself(
    wanted: list[object], tmp_path: Path, number: signal.Signals
) -> None:
    with start(*wanted, "--output", tmp_path / "bundle") as process:
        wait_for(tmp_path, ".bundle.*.draft", process)
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "Interrupted; no bundle was written." in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_replaced_bundle_is_there_before_and_after_a_kill(
    wanted: list[object], tmp_path: Path
) -> None:
    target = tmp_path / "bundle"
    assert run(*wanted, "--output", target) == 0
    old = read_bundle(target).id
    with start(*wanted, "--output", target, "--force", "--precision", "fp32") as process:
        wait_for(tmp_path, ".bundle.*.draft/device.onnx.data", process)
        process.kill()
    assert read_bundle(target).id == old


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes: the system then says what a full disk says."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_while_weights_are_written_is_an_error_in_words(
    tiny_model: Models, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_step(step: str) -> None:
        if step == steps.SAVE:  # from here on no file may grow beyond 20 kB, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    request = Request(str(tiny_model("opt")), 1, tmp_path / "bundle", prove="twin")
    try:
        with pytest.raises(SplitFrozenError, match="there is no room for the bundle") as refused:
            export_bundle(request, on_step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.code == "insufficient_storage"
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_without_room_are_the_same_error(
    wanted: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_files(20_000):
        assert run(*wanted, "--output", tmp_path / "bundle") == 1
    assert "or for a small model beside other temporary files" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
