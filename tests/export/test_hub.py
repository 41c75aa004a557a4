"""splitfrozen-export takes models from a Hub, as people know it from Transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from splitfrozen import read_bundle
from tests.export.hub_stand_in import HubStandIn, hub_stand_in

COMMITS = {"main": "a" * 40, "v1": "b" * 40}
TOKEN = "hf_a_token_of_the_test"
COMMAND = "from splitfrozen_export.cli import main; main()"


@pytest.fixture(scope="module")
def hub(tiny_model: Callable[[str], Path]) -> Iterator[HubStandIn]:
    with hub_stand_in(
        tiny_model("bert"), repository="someone/tiny", token=TOKEN, revisions=COMMITS
    ) as served:
        yield served


# One process for all that is refused online: most of its time goes into imports.
REFUSALS = """
import os, sys
from splitfrozen_export.cli import main
for token, revision in ((os.environ["HF_TOKEN"], "v9"), ("hf_wrong", "main")):
    os.environ["HF_TOKEN"] = token
    sys.argv += ["--revision", revision]  # the last one counts
    try:
        main()
    except SystemExit as left:
        print(left.code)
"""


def start(
    *arguments: str | Path, home: Path, program: str = COMMAND, **environment: str
) -> subprocess.Popen[str]:
    """Run the command in a process of its own: the Hub's client reads HF_* when it is imported."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments), "--prove", "twin"],
        env={**plain, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def export(*arguments: str | Path, home: Path, **environment: str) -> str:
    """Run the command, which must succeed, and return its standard output."""
    with start(*arguments, home=home, **environment) as process:
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


def test_a_private_model_is_found_at_its_revision_and_then_offline(
    hub: HubStandIn, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    wanted = ["--model", "someone/tiny", "--cut", "1", "--revision", "v1", "--format", "json"]
    online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}

    first = export(*wanted, "--output", tmp_path / "first", home=home, **online)
    summary = json.loads(first)
    assert (summary["base_model"], summary["revision"]) == ("someone/tiny", COMMITS["v1"])
    assert read_bundle(tmp_path / "first").id == summary["bundle"]
    assert {authorization for *_, authorization in hub.seen} == {f"Bearer {TOKEN}"}
    assert f"/someone/tiny/resolve/{COMMITS['v1']}/model.safetensors" in hub.paths()

    asked = len(hub.seen)
    offline = {**online, "HF_HUB_OFFLINE": "1"}
    second = export(*wanted, "--output", tmp_path / "second", home=home, **offline)
    assert len(hub.seen) == asked
    assert json.loads(second)["bundle"] == summary["bundle"]  # the same bytes again


def test_what_cannot_be_fetched_is_refused_with_the_reason(hub: HubStandIn, tmp_path: Path) -> None:
    known = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    wanted = ["--model", "someone/tiny", "--cut", "1", "--output", tmp_path / "bundle"]
    with start(*wanted, home=tmp_path / "home", program=REFUSALS, **known) as process:
        codes, errors = process.communicate()
    assert codes.split() == ["2", "2"]
    assert errors.count("at that revision; check the spelling, and HF_TOKEN") == 2
    assert "Traceback" not in errors
    assert list(tmp_path.glob("*bundle*")) == []
