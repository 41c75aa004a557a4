"""The built edge wheel on an emulated Pi 4 and Pi 5, against a real server on this machine.

What a user installs, not the sources: Debian 12's Python 3.11, arm64 wheels, the wheel of this
repository. Correctness only; an emulated second says nothing about a board's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.emulation import arm
from benchmarks.emulation.kept import PlatformUnavailable
from benchmarks.emulation.wheel import install_edge
from splitfrozen import Shard, decode
from tests.e2e.stack import Device, Stack, export, write_rows
from tests.platforms.pi import Pi

pytestmark = pytest.mark.long

LABELS = ("light", "music")
ROWS = [
    {"text": f"turn the {thing} {way} in the {room}", "label": LABELS[thing == "radio"]}
    for thing in ("lamp", "ceiling light", "radio")
    for way in ("on", "off", "up a little", "down until I can hardly notice it any more")
    for room in ("kitchen", "room of the children")
]


@pytest.fixture(scope="module")
def environ(edge_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """In which an emulated Python finds the wheel and what its extra needs."""
    try:
        return arm.environment(install_edge(edge_wheel, tmp_path_factory.mktemp("site")))
    except PlatformUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def stories_bundle(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real little decoder, cut 2 of 5, int8."""
    return export(shared_models / "stories260K", 2, tmp_path_factory.mktemp("bundles") / "stories")


@pytest.fixture(scope="module")
def server(
    minilm: Path,
    shared_models: Path,
    minilm_bundle: Path,
    stories_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("server")).start()
    stack.admin("models", "add", "minilm", minilm)
    stack.admin("models", "add", "stories", shared_models / "stories260K")
    for directory in (minilm_bundle, stories_bundle):
        stack.admin("bundles", "add", directory)
    yield stack
    stack.stop()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def model(server: Stack, minilm_bundle: Path, rows: Path) -> str:
    """A model trained on what a device on this machine pushed to the dataset `here`."""
    server.device("here").push(minilm_bundle, "here", rows)
    server.admin("datasets", "seal", "here")
    job = server.admin(
        "jobs", "create", "--dataset", "here", "--suffix", "lights", "--epochs", 2, "--wait",
        "--output", server.directory / "adapter",
    )  # fmt: skip
    assert job["status"] == "succeeded"
    return "ft:lights"


@pytest.fixture
def new_pi(environ: dict[str, str], server: Stack, tmp_path: Path) -> Callable[[str], Pi]:
    """An enrolled board."""

    def make(cpu: str) -> Pi:
        pi = Pi(cpu, tmp_path / cpu, environ)
        token = server.admin("tokens", "create", "--role", "enrol", "--uses", 1)["token"]
        pi.run("enroll", "--server", server.url, "--token", token, "--name", tmp_path.name)
        return pi

    return make


def shards_of(server: Stack, name: str) -> list[Shard]:
    """What the server has stored of a dataset, in order of content that no platform changes."""
    dataset = server.admin("datasets", "get", name)["id"]
    found = []
    for path in (server.data_dir / "blobs").rglob("*"):
        if path.is_file() and len(path.name) == 64:
            shard = decode(path.read_bytes())
            if shard.dataset == dataset:
                found.append(shard)
    return sorted(found, key=lambda shard: shard.lengths.tolist())


@pytest.mark.parametrize("cpu", arm.CPUS)
def test_a_board_enrols_is_examined_pushes_and_predicts(
    cpu: str,
    new_pi: Callable[[str], Pi],
    server: Stack,
    model: str,
    minilm_bundle: Path,
    rows: Path,
) -> None:
    pi = new_pi(cpu)
    found = pi.examine("--bundle", minilm_bundle)
    assert not [row for row in found.values() if row["status"] == "fail"]
    assert "runs the bundle's model" in found["runtime"]["found"]
    assert ("no int8 dot products" in found["cpu"]["found"]) == (cpu == arm.PI_4)
    assert "aarch64" in found["architecture"]["found"]
    assert found["token"]["status"] == "ok"

    push = ("push", "--bundle", minilm_bundle, "--dataset", cpu, "--data", rows)
    pushed = pi.json(*push)
    assert (pushed["examples"], pushed["duplicates"]) == (len(ROWS), 0)
    assert server.admin("datasets", "get", cpu)["examples"] == len(ROWS)
    assert "nothing waits" in pi.run("queue", "list")
    (dataset,) = pi.json("status")["datasets"]
    assert dataset["done_examples"] == len(ROWS)
    assert_same_activations(shards_of(server, "here"), shards_of(server, cpu))

    told = pi.json("predict", "--model", model, "--data", rows)["data"]
    expected = here(server, "predict", "--model", model, "--data", rows)["data"]
    assert [row["label"] for row in told] == [row["label"] for row in expected]
    for ours, theirs in zip(expected, told, strict=True):
        for label in LABELS:
            assert abs(ours["scores"][label] - theirs["scores"][label]) < 0.01


def assert_same_activations(here: list[Shard], there: list[Shard]) -> None:
    """int8 codes equal x86's, but for the few that a float's last bit tips (docs/results.md)."""
    assert here and [s.lengths.tolist() for s in here] == [s.lengths.tolist() for s in there]
    ours, theirs = (
        np.concatenate([np.asarray(shard.hidden, np.int16) for shard in side])
        for side in (here, there)
    )
    steps = np.abs(ours - theirs)
    print(f"{np.mean(steps > 0):.2e} of {steps.size} codes differ, by at most {steps.max()}")
    assert np.mean(steps > 0) < 0.01
    assert np.mean(steps > 1) <= 1e-4


def here(server: Stack, *arguments: object) -> Any:
    """The same question from this machine."""
    said = Device(server.directory / "device-here").run(*arguments, "--format", "json")
    return json.loads(said)


def test_a_board_generates_what_this_machine_generates(
    new_pi: Callable[[str], Pi], server: Stack, model: str, stories_bundle: Path
) -> None:
    """`model` for its device on this machine. Greedy, with keys and values kept on the board."""
    ask = ("generate", "--model", "stories", "--bundle", stories_bundle, "--temperature", 0)
    ask = (*ask, "--prompt", "Once upon a time, there was", "--max-tokens", 12)
    told, expected = new_pi(arm.PI_5).json(*ask), here(server, *ask)
    assert told["text"] and told["text"] == expected["text"]


def test_a_push_that_is_killed_twice_brings_every_row_once(
    new_pi: Callable[[str], Pi], server: Stack, stories_bundle: Path, tmp_path: Path
) -> None:
    lines = [
        {"text": f"Once upon a time {n} birds sat{' and sat' * (n % 9)}."} for n in range(1500)
    ]
    data = write_rows(tmp_path / "stories.jsonl", lines)
    pi = new_pi(arm.PI_5)
    push = ("push", "--bundle", stories_bundle, "--dataset", "killed", "--data", data)
    killed = 0
    for wait in (0.2, 1.5):
        with pi.start(*push) as process:
            wait_for_work(pi, process)
            time.sleep(wait)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed, "both pushes ended before they could be killed: give them more rows"
    report = pi.json(*push)
    assert report["duplicates"] == 0
    assert server.admin("datasets", "get", "killed")["examples"] == len(lines)
    assert pi.json("status")["queued_bytes"] == 0


def wait_for_work(pi: Pi, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Until the push has its outbox open."""
    end = time.monotonic() + seconds
    while not (pi.state / "outbox.sqlite3-wal").exists() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
