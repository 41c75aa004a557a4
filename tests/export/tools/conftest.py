"""Bundles to look into: a hand-made one for everything about files, an exported one for numbers."""

from __future__ import annotations

import io
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from splitfrozen.bundle import CHECKSUM_NAME, checksum_bytes
from splitfrozen_export import cli as export_cli
from splitfrozen_export.tools import cli
from tests.edge.tiny_bundle import write_bundle


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    output: str
    errors: str


def run_main(main: Callable[[], None], *arguments: object) -> Done:
    """Run an entry point in this process."""
    output, errors = io.StringIO(), io.StringIO()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", ["splitfrozen-bundle", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
    signal.signal(signal.SIGTERM, before)
    return Done(int(left.value.code or 0), output.getvalue(), errors.getvalue())


@pytest.fixture
def run() -> Callable[..., Done]:
    """Run splitfrozen-bundle."""
    return lambda *arguments: run_main(cli.main, *arguments)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as the exporter writes it, whose graph is a lookup and the codec."""
    directory = write_bundle(tmp_path_factory.mktemp("small") / "bundle", family="bert")
    raw = (directory / "splitfrozen.json").read_bytes()
    (directory / CHECKSUM_NAME).write_bytes(checksum_bytes(raw))
    return directory


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(small, tmp_path / "copy"))


@pytest.fixture(scope="session")
def exported(
    tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A tiny random model of a family, exported with the int8 recipe, cut 1."""
    written: dict[str, Path] = {}

    def export(family: str) -> Path:
        if family not in written:
            target = tmp_path_factory.mktemp("exported") / family
            wanted = ["--model", tiny_model(family), "--cut", 1, "--output", target]
            done = run_main(export_cli.main, *wanted, "--prove", "twin")
            assert done.code == 0, done.errors
            written[family] = target
        return written[family]

    return export
