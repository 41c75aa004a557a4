"""A download tells how many bytes of how many are there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export.commands import start
from tests.export.hub_stand_in import hub_stand_in

# The Hub's client reads HF_* when it is imported, hence a process of its own.
PROGRAM = """
import json
from splitfrozen_export.downloads import download
from splitfrozen_export.split import resolve_model
from splitfrozen_export.split.needs import missing_files
source = resolve_model("someone/tiny")
missing = missing_files(source, 1)
told = []
download(source, missing, lambda done, total: told.append((done, total)))
print(json.dumps([missing, told, missing_files(source, 1)]))
"""


@pytest.mark.long
def test_the_bytes_of_a_download_add_up(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = tiny_model("bert")
    size = (model / "model.safetensors").stat().st_size
    with hub_stand_in(
        model, repository="someone/tiny", token="hf_x", revisions={"main": "a" * 40}
    ) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": tmp_path, "HF_TOKEN": "hf_x"}
        with start(program=PROGRAM, HF_HUB_DISABLE_XET=1, **environment) as process:
            output, errors = process.communicate()
    assert process.returncode == 0, errors
    missing, told, left = json.loads(output)
    assert set(missing) == {"model.safetensors"}
    assert told[-1] == [missing["model.safetensors"]] * 2
    assert missing["model.safetensors"] in (size, None)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert left == {}
