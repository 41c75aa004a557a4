"""A model is found by directory or by Hub id, offline from the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from splitfrozen.errors import ModelError
from splitfrozen_export.split import resolve_model

REVISION = "0123456789abcdef0123456789abcdef01234567"


PROGRAM = """
import sys
from splitfrozen.errors import ModelError
from splitfrozen_export.split import load_device_segment, resolve_model
source = resolve_model("someone/tiny")
print(source.id, source.revision, load_device_segment(source, 2).cut)
try:
    resolve_model("someone/else")
except ModelError as error:
    print(error.code, error)
"""


def write_hub_cache(hub: Path, repository: str, files: Path) -> None:
    """Lay `files` out as huggingface_hub caches a downloaded repository."""
    root = hub / "hub" / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(REVISION)
    (root / "snapshots").mkdir()
    (root / "snapshots" / REVISION).symlink_to(files)


def test_a_directory_keeps_the_name_it_was_given(tiny_model: Callable[[str], Path]) -> None:
    source = resolve_model(str(tiny_model("gpt2")))
    assert source.id == str(tiny_model("gpt2"))
    assert source.path == tiny_model("gpt2")
    assert source.revision is None


def test_offline_a_hub_id_resolves_from_the_cache_or_is_refused(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """In a process of its own, since Hub settings are read once, at import."""
    write_hub_cache(tmp_path, "someone/tiny", tiny_model("gpt2"))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    cached, missing = done.stdout.splitlines()
    assert cached == f"someone/tiny {REVISION} 2"
    assert missing.startswith("model_not_found")
    assert "neither a directory nor in the local Hub cache" in missing


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "~/nowhere", "a/b/c"])
def test_a_missing_directory_is_not_looked_up_on_the_hub(path: str) -> None:
    with pytest.raises(ModelError, match="no directory") as caught:
        resolve_model(path)
    assert caught.value.code == "model_not_found"
