"""A bundle directory is there completely or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from splitfrozen import Manifest, SplitFrozenError, read_bundle
from splitfrozen.errors import ManifestError
from splitfrozen.manifest import BaseModel, Preprocess
from splitfrozen_export.bundle import check_target, draft_bundle

STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "fcntl.flock")
# Writes a bundle whose one file says "new", and kills itself before step argv[2] among argv[3:].
CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [os.getcwd()]
from splitfrozen_export.bundle import draft_bundle
from tests.export.test_bundle import small_manifest

target, left, steps = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]

def count(event, arguments):
    global left
    if event in steps and target.name in str(arguments):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
with draft_bundle(target, force=True) as draft:
    (draft.directory / "device.onnx").write_text("new")
    draft.publish(small_manifest(draft.files()))
"""


def small_manifest(files, *, pad_token_id=None) -> Manifest:  # type: ignore[no-untyped-def]
    return Manifest(
        base_model=BaseModel("tiny", None),
        prefix_digest="0" * 64,
        family="bert",
        architecture="encoder",
        hidden_size=32,
        num_layers=4,
        cut=2,
        max_positions=64,
        vocab_size=128,
        precision="fp32",
        wire="fp32",
        wire_codecs=("fp32",),
        opset=23,
        preprocess=Preprocess(64, "right", (), None, pad_token_id, None),
        files=files,
    )


def write(target: Path, text: str, *, force: bool = False) -> str:
    with draft_bundle(target, force=force) as draft:
        (draft.directory / "device.onnx").write_text(text)
        return draft.publish(small_manifest(draft.files()))


def content(target: Path) -> str:
    return (read_bundle(target).directory / "device.onnx").read_text()


def test_a_published_bundle_verifies(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    written = write(target, "weights")
    assert read_bundle(target).id == written
    assert [path.name for path in target.parent.iterdir()] == ["bundle"]


def test_a_failing_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), draft_bundle(tmp_path / "bundle", force=False) as draft:
        (draft.directory / "device.onnx").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_only_with_force(tmp_path: Path) -> None:
    write(tmp_path / "bundle", "old")
    with pytest.raises(SplitFrozenError, match="--force") as refused:
        write(tmp_path / "bundle", "new")
    assert refused.value.code == "name_taken"
    assert content(tmp_path / "bundle") == "old"
    write(tmp_path / "bundle", "new", force=True)
    assert content(tmp_path / "bundle") == "new"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch], ids=["directory", "file"])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    target = tmp_path / "precious"
    make(target)
    if target.is_dir():
        (target / "thesis.txt").write_text("years of work")
    with pytest.raises(SplitFrozenError, match="is no bundle") as refused:
        check_target(target, force=True)
    assert refused.value.code == "invalid_request"


def test_an_empty_directory_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    write(tmp_path / "bundle", "weights")
    assert content(tmp_path / "bundle") == "weights"


def test_two_exports_to_one_place_do_not_remove_each_other_s_draft(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with draft_bundle(target, force=False) as first, draft_bundle(target, force=False) as second:
        assert first.directory.is_dir()
        assert second.directory.is_dir()


def test_a_manifest_that_no_one_could_open_is_not_published(tmp_path: Path) -> None:
    write(tmp_path / "bundle", "old")
    with draft_bundle(tmp_path / "bundle", force=True) as draft:
        (draft.directory / "device.onnx").write_text("new")
        with pytest.raises(ManifestError, match="pad_token_id"):
            draft.publish(small_manifest(draft.files(), pad_token_id=-1))
    assert content(tmp_path / "bundle") == "old"


@pytest.mark.long
def test_killed_at_any_step_there_is_the_old_bundle_or_the_new_one(tmp_path: Path) -> None:
    """Every step of replacing a bundle: after the kill, the next export repairs and succeeds."""
    seen = set()
    for step in range(100):
        target = tmp_path / f"{step:03}" / "bundle"
        write(target, "old")
        killed = kill_before(target, step)
        before = content(target) if target.exists() else None
        assert before in ("old", "new", None)
        seen.add(before)
        write(target, "newest", force=True)
        assert content(target) == "newest"
        assert [path.name for path in target.parent.iterdir()] == ["bundle"]
        if not killed:
            break
    else:
        pytest.fail("the child never finished")
    assert {"old", "new"} <= seen


def test_an_interrupted_replacement_is_undone_when_a_new_export_fails(tmp_path: Path) -> None:
    """Between the two renames only the hidden old bundle is left; it comes back."""
    target = tmp_path / "bundle"
    write(target, "old")
    target.rename(tmp_path / ".bundle.replaced")
    with pytest.raises(SplitFrozenError, match="--force"):
        check_target(target, force=False)
    assert content(target) == "old"


def test_a_link_to_a_bundle_is_replaced_and_the_bundle_behind_it_stays(tmp_path: Path) -> None:
    write(tmp_path / "real", "old")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    for text in ("new", "newer"):
        write(link, text, force=True)
        assert content(link) == text
    assert content(tmp_path / "real") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(SplitFrozenError, match="link to nothing"):
        write(tmp_path / "link", "new", force=True)


def test_an_interruption_in_the_middle_of_a_replacement_keeps_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "b"
    write(target, "old")
    rename = Path.rename

    def interrupt(path: Path, to: Path) -> Path:
        if path.name.endswith(".draft"):
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(target, "new", force=True)
    assert content(target) == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_bundle_hidden_by_a_killed_export_is_no_free_place(tmp_path: Path) -> None:
    """Killed between the two renames of a replacement, by a real SIGKILL."""
    target = tmp_path / "bundle"
    write(target, "old")
    assert kill_before(target, 1, "os.rename")
    assert not target.exists()
    with pytest.raises(SplitFrozenError, match="--force"):
        check_target(target, force=False)
    assert content(target) == "old"


def kill_before(target: Path, step: int, *among: str) -> bool:
    """Replace the bundle in a process that is killed before a step; whether it was."""
    arguments = [str(target), str(step), *(among or STEPS)]
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], check=False, timeout=60)
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0
