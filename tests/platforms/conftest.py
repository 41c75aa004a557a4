"""Platforms that this machine can build and run; where it cannot, the test is skipped with why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.emulation.everywhere import prepare
from benchmarks.emulation.kept import PlatformUnavailable
from benchmarks.platforms import Subject, write_graphs
from splitfrozen_export.measure.samples import SENTENCES
from splitfrozen_export.precision.quantize import PRECISIONS

Graphs = Callable[[str], dict[str, Path]]


@pytest.fixture
def ready() -> Callable[[str], None]:
    """Build a platform, or skip (on CI a skip is a failure)."""

    def need(platform: str) -> None:
        try:
            prepare(platform)
        except PlatformUnavailable as error:
            pytest.skip(str(error))

    return need


@pytest.fixture(scope="session")
def real_subjects(minilm: Path, shared_models: Path) -> dict[str, Subject]:
    return {
        "minilm": Subject("minilm", minilm, 4, SENTENCES),
        "stories": Subject("stories", shared_models / "stories260K", 2, SENTENCES),
    }


@pytest.fixture(scope="session")
def real_graphs(
    real_subjects: dict[str, Subject], tmp_path_factory: pytest.TempPathFactory
) -> Graphs:
    """Every precision of a real model, exported once a session."""
    known: dict[str, dict[str, Path]] = {}

    def graphs(name: str) -> dict[str, Path]:
        if name not in known:
            folder = tmp_path_factory.mktemp(f"platforms-{name}")
            known[name] = write_graphs(real_subjects[name], folder, PRECISIONS)
        return known[name]

    return graphs
