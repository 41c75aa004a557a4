"""Fixtures of every part: real data and weights, and tiny models where shapes suffice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.real_inputs import data_root, minilm_directory
from tests.tiny_models import write_tiny_model

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and every process that a test interrupts would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_root() -> Path:
    """Folder with `data/` and `models/`: SPLITFROZEN_TEST_DATA or the sibling folder `shared`."""
    root = data_root()
    if root is None:
        pytest.skip("no real data: set SPLITFROZEN_TEST_DATA to a folder with data/ and models/")
    return root


@pytest.fixture(scope="session")
def shared_data(shared_root: Path) -> Path:
    return shared_root / "data"


@pytest.fixture(scope="session")
def shared_models(shared_root: Path) -> Path:
    return shared_root / "models"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real all-MiniLM-L6-v2 as a model directory."""
    return minilm_directory()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny random model of a family, written once a session."""
    written: dict[str, Path] = {}

    def model(family: str) -> Path:
        if family not in written:
            directory = tmp_path_factory.mktemp("models") / family
            written[family] = write_tiny_model(family, directory)
        return written[family]

    return model


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """On CI a skip is a failure: what a test needs, its set-up installs. GPUs are the exception."""
    outcome = yield
    report = outcome.get_result()
    on_ci = os.environ.get("CI", "").lower() in ("1", "true")
    allowed = item.get_closest_marker("gpu") or hasattr(report, "wasxfail")
    if on_ci and report.skipped and not allowed:
        report.outcome = "failed"
        report.longrepr = f"skipped on CI: {report.longrepr}"
