"""The README's main job, command by command, as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from tests.e2e.stack import BIN, Stack, write_rows

README = Path(__file__).resolve().parents[2] / "README.md"


def commands() -> list[list[str]]:
    block = re.search(r"<!-- commands[^\n]*-->\n```\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    found = [shlex.split(line) for line in block[1].splitlines() if line.strip()]
    assert len(found) >= 12
    return found


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[[str], Path]) -> Iterator[Path]:
    """A working directory in which `gpt2` is a model directory and `train.jsonl` is there."""
    shutil.copytree(tiny_model("gpt2"), tmp_path / "gpt2")
    rows = [{"text": f"good film {n}", "label": "positive"} for n in range(40)]
    rows += [{"text": f"bad film {n}", "label": "negative"} for n in range(40)]
    write_rows(tmp_path / "train.jsonl", rows)
    yield tmp_path


def test_the_main_job_of_the_readme_runs_as_written(folder: Path) -> None:
    stack = Stack(folder)
    names = {"8000": str(stack.port)}

    def run(words: list[str], *extra: str) -> str:
        program, *rest = [
            names.get(word, word).replace("127.0.0.1:8000", f"127.0.0.1:{stack.port}")
            for word in words
        ]
        if program == "splitfrozen-export":  # four layers, random weights
            rest = ["2" if before == "--cut" else word for before, word in pairs(rest)]
            rest += ["--max-error", "0.5"]
        if "datasets" in rest and "create" in rest:
            rest = ["2" if before == "--cut" else word for before, word in pairs(rest)]
        if program == "splitfrozen-server":
            rest += ["--server", stack.url, "--data-dir", str(stack.data_dir)]
        if program == "splitfrozen-edge":
            rest += ["--state-dir", str(folder / "pi")]
        done = subprocess.run(
            [BIN / program, *rest, *extra], cwd=folder, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    try:
        for words in commands():
            if "serve" in words:
                stack.start()
            elif words[1:3] == ["tokens", "create"]:
                names["ENROLMENT_TOKEN"] = json.loads(run(words, "--format", "json"))["token"]
            elif words[1:3] == ["jobs", "create"]:
                names["JOB"] = json.loads(run(words, "--format", "json"))["id"]
            else:
                output = run(words)
    finally:
        stack.stop()
    assert re.search(r"positive|negative", output)
    base = AutoModelForSequenceClassification.from_pretrained(folder / "gpt2", num_labels=2)
    adapted = PeftModel.from_pretrained(base, folder / "adapter")
    assert adapted.peft_config["default"].layers_to_transform == [2, 3]


def pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(zip(["", *words], words, strict=False))
