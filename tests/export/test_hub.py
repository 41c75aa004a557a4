"""splitfrozen-export takes models from a Hub, as people know it from Transformers."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from splitfrozen import SplitFrozenError, read_bundle
from splitfrozen_export.split.source import hub_errors
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


SEGMENTS = """
import sys
from splitfrozen_export.split import (
    load_device_segment, load_server_segment, prefix_digest, resolve_model
)
from splitfrozen_export.split.needs import missing_files
source = resolve_model("someone/parts")
print(sorted(missing_files(source, 1).items()))
prefix_digest(source, 1)
load_device_segment(source, 1, stream=True)
load_device_segment(source, 1)
print(missing_files(source, 1))
print("-" * 9, file=sys.stderr, flush=True)
load_server_segment(source, 3, "classification", num_labels=2)
"""


def test_only_the_shards_of_a_segment_are_downloaded(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """The device's for its digest and itself; the server's when the server segment is loaded."""
    parts = tmp_path / "parts"
    stock = AutoModelForCausalLM.from_pretrained(tiny_model("mistral"))
    stock.save_pretrained(parts, max_shard_size="20KB")
    index = json.loads((parts / "model.safetensors.index.json").read_text())["weight_map"]
    device = {index[name] for name in index if "embed_tokens" in name or "layers.0." in name}
    server = {index[name] for name in index if "layers.3." in name or name == "model.norm.weight"}
    assert not device & server

    def asked() -> set[str]:
        paths = [path for method, path, _ in hub.seen if method == "GET" and "/resolve/" in path]
        return {Path(path).name for path in paths if path.endswith(".safetensors")}

    with hub_stand_in(parts, repository="someone/parts", token=TOKEN, revisions=COMMITS) as hub:
        online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        with start(home=tmp_path / "home", program=SEGMENTS, **online) as process:
            assert process.stderr is not None and process.stdout is not None
            errors = []
            for line in process.stderr:
                if line.startswith("-" * 9):
                    assert asked() == device
                errors.append(line)
            output = process.stdout.read()
    assert process.returncode == 0, "".join(errors)
    sizes = sorted((file, (parts / file).stat().st_size) for file in device)
    assert output.splitlines() == [str(sizes), "{}"]
    assert asked() == device | server


def test_what_cannot_be_fetched_is_refused_with_the_reason(hub: HubStandIn, tmp_path: Path) -> None:
    known = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    wanted = ["--model", "someone/tiny", "--cut", "1", "--output", tmp_path / "bundle"]
    with start(*wanted, home=tmp_path / "home", program=REFUSALS, **known) as process:
        codes, errors = process.communicate()
    assert codes.split() == ["2", "2"]
    assert errors.count("at that revision; check the spelling, and HF_TOKEN") == 2
    assert "Traceback" not in errors
    assert list(tmp_path.glob("*bundle*")) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_not_blamed_on_the_hub(number: int) -> None:
    with pytest.raises(SplitFrozenError) as refused, hub_errors("someone/tiny"):
        raise OSError(number, os.strerror(number))
    assert refused.value.code == "insufficient_storage"
    assert "no room for 'someone/tiny' in the Hub cache (HF_HOME)" in refused.value.message


def test_another_broken_disk_is_not_called_full() -> None:
    with pytest.raises(SplitFrozenError) as refused, hub_errors("someone/tiny"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert refused.value.code == "model_not_found"


def test_a_dry_run_of_a_sharded_model_counts_only_the_shards_of_the_segment(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    stock = AutoModelForCausalLM.from_pretrained(tiny_model("mistral"))
    stock.save_pretrained(parts, max_shard_size="20KB")
    for file in tiny_model("mistral").glob("tokenizer*"):
        shutil.copy(file, parts)
    index = json.loads((parts / "model.safetensors.index.json").read_text())["weight_map"]
    device = {index[name] for name in index if "embed_tokens" in name or "layers.0." in name}
    wanted = ["--model", "someone/parts", "--cut", "1", "--output", str(tmp_path / "bundle")]
    wanted += ["--dry-run", "--format", "json"]
    with hub_stand_in(parts, repository="someone/parts", token=TOKEN, revisions=COMMITS) as hub:
        online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        with start(*wanted, home=tmp_path / "home", **online) as process:
            output, errors = process.communicate()
        fetched = [path for method, path, _ in hub.seen if method == "GET"]
    assert process.returncode == 0, errors
    sizes = {file: (parts / file).stat().st_size for file in device}
    assert json.loads(output)["download_bytes"] == sizes
    assert not [path for path in fetched if path.endswith(".safetensors")]
