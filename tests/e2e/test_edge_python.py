"""The Python API on a real server: every block of its page as it stands there, and the example."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from splitfrozen_edge import Prediction
from tests.e2e.stack import BIN, Device, Stack

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "edge-python.md"
APP = ROOT / "examples" / "edge_app.py"


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path], tiny_bundle: Path
) -> Iterator[Stack]:
    """A server that has the tiny gpt2 and its bundle."""
    stack = Stack(tmp_path_factory.mktemp("server")).start()
    stack.admin("models", "add", "gpt2", tiny_model("gpt2"))
    stack.admin("bundles", "add", tiny_bundle)
    yield stack
    stack.stop()


def blocks() -> list[tuple[str, int, str]]:
    """(language, line, code) of every fenced block of the page."""
    text = PAGE.read_text("utf-8")
    found = re.finditer(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(item[1], text.count("\n", 0, item.start()) + 1, item[2]) for item in found]


def test_every_block_of_the_page_runs(
    served: Stack, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = served.admin("tokens", "create", "--role", "enrol", "--uses", 1)["token"]
    names = {
        "http://127.0.0.1:8000": served.url,
        "ENROLMENT_TOKEN": token,
        "bundles/gpt2-cut4": str(tiny_bundle),
    }
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    languages = []
    for language, line, code in blocks():
        languages.append(language)
        for old, new in names.items():
            code = code.replace(old, new)
        if language == "python":
            # Line numbers of an error are those of the page.
            exec(compile("\n" * line + code, PAGE, "exec"), space)
        else:
            run_shell(code, served, tmp_path)
    assert languages.count("python") >= 7
    assert languages.count("sh") == 1


def run_shell(code: str, served: Stack, folder: Path) -> None:
    for command in code.splitlines():
        program, *rest = shlex.split(command)
        rest += ["--server", served.url, "--data-dir", str(served.data_dir)]
        done = subprocess.run(
            [BIN / program, *rest], cwd=folder, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_the_example_learns_from_sorted_notes_and_sorts_new_ones(
    served: Stack, tiny_bundle: Path, tmp_path: Path
) -> None:
    device, notes = served.device("app"), tmp_path / "notes"
    words = {"work": "meeting report budget", "home": "garden dinner children"}
    for label, text in words.items():
        (notes / label).mkdir(parents=True)
        for n in range(30):
            (notes / label / f"{n}.txt").write_text(f"{text} {n}")
    first = app(device, "learn", notes, "--bundle", tiny_bundle)
    assert "60 notes sent, 0 were sent before" in first
    assert "0 notes sent, 60 were sent before" in app(device, "learn", notes)
    served.admin("datasets", "seal", "notes")
    options = ("--suffix", "notes", "--epochs", 12, "--wait", "--output", tmp_path / "adapter")
    run = [BIN / "splitfrozen-server", "jobs", "create", "--dataset", "notes", *map(str, options)]
    where = ["--server", served.url, "--data-dir", str(served.data_dir)]
    subprocess.run([*run, *where], check=True, capture_output=True, timeout=300)
    for name, text in (("a", "meeting report budget"), ("b", "garden dinner children")):
        (notes / f"{name}.txt").write_text(text)
    told = app(device, "sort", notes)
    assert (notes / "work" / "a.txt").is_file(), told
    assert (notes / "home" / "b.txt").is_file(), told
    assert app(device, "sort", notes) == ""


def test_the_example_moves_nothing_out_of_its_folder(tmp_path: Path) -> None:
    labels = ["../outside", str(tmp_path / "outside"), "..", "nowhere", "work"]
    notes = tmp_path / "notes"
    for folder in (tmp_path / "outside", notes / "work"):
        folder.mkdir(parents=True)
    for name in "abcde":
        (notes / f"{name}.txt").write_text(name)

    class Fed:
        """A device whose server holds labels that another device brought."""

        def predict(self, texts: list[str], model: str) -> list[Prediction]:
            assert len(texts) == len(labels)
            return [Prediction(1, label, {label: 1.0}) for label in labels]

    runpy.run_path(str(APP))["sort"](Fed(), notes, "ft:notes", 0.5)
    assert not list((tmp_path / "outside").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"notes", "outside"}
    assert (notes / "work" / "e.txt").is_file() and len(list(notes.glob("*.txt"))) == 4


def app(device: Device, command: str, folder: Path, *options: object) -> str:
    done = subprocess.run(
        [sys.executable, APP, command, folder, "--state-dir", device.state, *map(str, options)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
