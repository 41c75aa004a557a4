"""docs/raspberry-pi.md, command by command, on the emulated board and a real server with TLS."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import httpx
import pytest

from benchmarks.emulation import arm
from splitfrozen_edge.cli import main as edge
from splitfrozen_server.cli import cli as server
from tests.e2e.stack import BIN, free_port, write_rows
from tests.platforms.page import BOARD, NOT, SERVER, fences, own_commands, read_blocks
from tests.platforms.pi import Pi

BEYOND = ("sudo ", "systemctl ", "journalctl ", "#!/bin/sh", "exec sudo ", "EOF")


# What every run of the tests looks at


def test_every_block_says_who_tries_it() -> None:
    blocks = read_blocks()
    assert len(blocks) == fences() >= 12
    for block in blocks:
        assert block.mark in (BOARD, SERVER) or block.mark.startswith(NOT), block


def test_only_what_needs_root_or_systemd_is_not_tried() -> None:
    untried = [
        line for block in read_blocks() if block.mark.startswith(NOT) for line in block.lines
    ]
    assert untried
    for line in untried:
        assert line.startswith(BEYOND) or "| sudo tee" in line, line


@pytest.mark.parametrize(("program", "words"), own_commands(), ids=lambda value: str(value)[:60])
def test_every_command_and_flag_of_the_page_exists(program: str, words: list[str]) -> None:
    found: click.Command = {"splitfrozen-edge": edge, "splitfrozen-server": server}[program]
    rest = list(words)
    while isinstance(found, click.Group) and rest and not rest[0].startswith("-"):
        inner = found.commands.get(rest[0])
        assert inner is not None, f"{program} has no command {rest[0]}"
        found = inner
        rest.pop(0)
    known = {flag for option in found.params for flag in option.opts}
    for word in rest:
        if word.startswith("--"):
            assert word in known | {"--help"}, f"{program} {' '.join(words)}: no {word}"


# The page itself


@dataclass
class Site:
    """A server and a board, and the names that the page's own stand for."""

    folder: Path
    pi: Pi
    port: int
    names: dict[str, str]  # of the page -> of this site
    environ: dict[str, str] = field(default_factory=dict)  # on the server
    serving: subprocess.Popen[bytes] | None = None
    said: dict[str, str] = field(default_factory=dict)  # command -> what it printed

    def here(self, line: str) -> str:
        """A line of the page with this site's names."""
        for name, value in self.names.items():
            line = line.replace(name, value)
        return line


@pytest.fixture
def site(edge_wheel: Path, minilm: Path, minilm_bundle: Path, tmp_path: Path) -> Iterator[Site]:
    port = free_port()
    pip = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    plain = arm.environment([tmp_path])
    del plain["PYTHONPATH"]
    (tmp_path / "srv").mkdir()
    places = ("turn the lamp on in the", "play some music in the")
    rows = [
        {"text": f"{text} {room}", "label": ("light", "music")[kind]}
        for kind, text in enumerate(places)
        for room in ("kitchen", "hall", "bath", "attic")
    ]
    write_rows(tmp_path / "srv" / "train.jsonl", rows)
    names = {
        "https://server.lan:8000": f"https://localhost:{port}",
        "https://localhost:8000": f"https://localhost:{port}",
        "server.lan": "localhost",
        "/opt/splitfrozen": str(tmp_path / "opt"),
        "/srv/splitfrozen": str(tmp_path / "srv"),
        "splitfrozen[edge]": f"{edge_wheel}[edge]",
        "sentence-transformers/all-MiniLM-L6-v2": str(minilm),
        "bundles/minilm-cut3": str(minilm_bundle),
    }
    pi = Pi(arm.PI_5, tmp_path / "pi", {**plain, **pip})
    found = Site(tmp_path, pi, port, names)
    yield found
    if found.serving is not None:
        found.serving.terminate()
        found.serving.wait(30)


@pytest.mark.long
def test_the_page_works_as_it_is_written(site: Site) -> None:
    tried = 0
    for block in read_blocks():
        for line in block.lines:
            if block.mark == BOARD:
                on_board(site, line)
            elif block.mark == SERVER:
                on_server(site, line)
            tried += block.mark in (BOARD, SERVER)
    assert tried >= 18
    status = json.loads(site.pi.run("status", "--format", "json"))
    (dataset,) = status["datasets"]
    assert (dataset["name"], dataset["done_examples"]) == ("lights", 8)
    assert "User=splitfrozen" in site.said["splitfrozen-edge service print"]


def on_board(site: Site, line: str) -> None:
    """Run one line on the emulated board."""
    program, *words = site.here(line).split()
    words = [word.strip("'") for word in words]
    name = Path(program).name
    if name == "python3":
        make_environment(site, words)
    elif name == "pip":
        offline = "--no-index" in words
        run_pip(site, words, fresh=offline)
    elif name == "splitfrozen-edge":
        site.said[line] = site.pi.run(*words)
    else:
        raise AssertionError(f"nobody knows how to try: {line}")


def make_environment(site: Site, words: list[str]) -> None:
    """`python3 -m venv`. It would start the new Python a second time, to install pip in it: that
    needs a kernel that knows the emulator, so Debian's pip is put in from its own wheel instead."""
    module, folder = words[:2], Path(words[2])
    assert module == ["-m", "venv"]
    emulated(site, arm.command(site.pi.cpu)[-1], "-m", "venv", "--without-pip", folder)
    (wheel,) = arm.root().glob("usr/share/python-wheels/pip-*.whl")
    own = {"PYTHONPATH": str(wheel)}
    python = folder / "bin" / "python"
    emulated(site, python, "-m", "pip", "install", "-q", "--no-index", "--no-compile", wheel, **own)
    site.pi.python = python
    site.pi.program = [folder / "bin" / "splitfrozen-edge"]


def run_pip(site: Site, words: list[str], *, fresh: bool) -> None:
    """`pip install` in the environment, or, so that it has something to do, only as far as what
    it would install in a fresh one."""
    python = site.pi.python
    assert python is not None
    if not fresh:
        emulated(site, python, "-m", "pip", *words, "--no-compile", "-q")
        return
    options = ["--ignore-installed", "--dry-run"]
    said = emulated(site, python, "-m", "pip", *words, *options, cwd=site.folder)
    (line,) = re.findall(r"^Would install .*onnxruntime.*$", said, re.MULTILINE)
    assert {"tokenizers-", "numpy-", "splitfrozen-"} <= set(re.findall(r"[a-z]+-", line))


def emulated(
    site: Site, python: str | Path, *words: object, cwd: Path | None = None, **more: str
) -> str:
    command = [*site.pi.launcher, str(python), *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**site.pi.environ, **more}, cwd=cwd
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def on_server(site: Site, line: str) -> None:
    """Run one line on this machine, with the server's data directory and port."""
    program, *words = site.here(line).split()
    words = [word.strip("'") for word in words]
    if program == "pip":
        run_here(site, [sys.executable, "-m", "pip", *words, "-q"])
        return
    if program == "export":
        name, _, value = words[0].partition("=")
        site.environ[name] = value
        return
    if words[0] == "serve":
        start_server(site, [*words, "--port", str(site.port)])
        return
    own = str(BIN / program)
    said = run_here(site, [own, *words])
    found = re.search(r"sha256:[0-9a-f]{64}", said)
    if words[0] == "tls" and found:
        site.names["sha256:FINGERPRINT"] = found[0]
    if words[:2] == ["bundles", "add"]:
        (listed,) = json.loads(run_here(site, [own, "bundles", "list", "--format", "json"]))
        site.names["BUNDLE_ID"] = listed["id"]
    if words[:2] == ["tokens", "create"]:
        site.names["ENROLMENT_TOKEN"] = said.strip()


def run_here(site: Site, command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=site.folder, timeout=300,
        env={**os.environ, **site.environ},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def start_server(site: Site, words: list[str]) -> None:
    log = (site.folder / "server.log").open("wb")
    command = [str(BIN / "splitfrozen-server"), *words]
    site.serving = subprocess.Popen(command, stdout=log, stderr=log, cwd=site.folder)
    log.close()
    end = time.monotonic() + 120
    while time.monotonic() < end:
        said = (site.folder / "server.log").read_text()
        assert site.serving.poll() is None, said
        try:
            address = f"https://localhost:{site.port}/health"
            if httpx.get(address, verify=False, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError(f"the server is not ready:\n{said}")
