"""Built folders: whole or absent, and built once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from benchmarks.emulation.commands import need
from benchmarks.emulation.kept import PlatformUnavailable, cache_root, keep


def write(folder: Path) -> None:
    (folder / "file").write_text("content")


def refuse(folder: Path) -> None:
    pytest.fail(f"{folder} is built again")


def test_a_folder_is_built_once(tmp_path: Path) -> None:
    keep("it", write, root=tmp_path, progress=False)
    folder = keep("it", refuse, root=tmp_path, progress=False)
    assert (folder / "file").read_text() == "content"


def test_a_failed_build_leaves_no_folder_and_the_next_one_starts_anew(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "half").touch()
        raise PlatformUnavailable("the network is gone")

    with pytest.raises(PlatformUnavailable, match="network"):
        keep("it", half, root=tmp_path, progress=False)
    assert not (tmp_path / "it").exists()
    folder = keep("it", write, root=tmp_path, progress=False)
    assert [file.name for file in folder.iterdir()] == ["file"]


def test_what_a_killed_build_left_behind_is_removed(tmp_path: Path) -> None:
    partial = tmp_path / ".it.partial"
    partial.mkdir()
    (partial / "half").touch()
    folder = keep("it", write, root=tmp_path, progress=False)
    assert [file.name for file in folder.iterdir()] == ["file"]


def test_two_builders_at_once_build_one_after_the_other(tmp_path: Path) -> None:
    builds = []

    def slow(folder: Path) -> None:
        builds.append(folder)
        time.sleep(0.2)
        write(folder)

    def build() -> None:
        keep("it", slow, root=tmp_path, progress=False)

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1 and (tmp_path / "it" / "file").exists()


def test_the_cache_folder_is_the_user_s(tmp_path: Path) -> None:
    assert cache_root({"XDG_CACHE_HOME": str(tmp_path)}).is_relative_to(tmp_path)
    assert cache_root({"XDG_CACHE_HOME": "relative"}).is_relative_to(Path.home() / ".cache")


def test_a_missing_program_is_named_with_what_to_do() -> None:
    with pytest.raises(PlatformUnavailable, match="no-such-program is not installed: ask Debian"):
        need("no-such-program", "ask Debian")
