"""Platforms that this machine can build and run; where it cannot, the test is skipped with why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.emulation import arm
from benchmarks.emulation.everywhere import prepare
from benchmarks.emulation.kept import PlatformUnavailable
from benchmarks.emulation.wheel import build_wheel
from benchmarks.platforms import Subject, read_reviews, write_graphs
from splitfrozen_export.measure.samples import SENTENCES
from splitfrozen_export.past import cached_graph_in
from splitfrozen_export.precision.quantize import PRECISIONS
from tests.e2e.stack import export
from tests.export.past.conftest import write_pair

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
def real_subjects(minilm: Path, shared_models: Path, shared_data: Path) -> dict[str, Subject]:
    return {
        "minilm": Subject("minilm", minilm, 4, SENTENCES),
        "reviews": Subject("reviews", minilm, 4, read_reviews(shared_data)),
        "stories": Subject("stories", shared_models / "stories260K", 2, SENTENCES),
    }


@pytest.fixture(scope="session")
def real_graphs(
    real_subjects: dict[str, Subject], tmp_path_factory: pytest.TempPathFactory
) -> Graphs:
    """A real model, exported once a session: the small one at every precision, MiniLM as int8."""
    known: dict[tuple[Path, int], dict[str, Path]] = {}

    def graphs(name: str) -> dict[str, Path]:
        subject = real_subjects[name]
        key = subject.directory, subject.cut
        if key not in known:
            folder = tmp_path_factory.mktemp(f"platforms-{name}")
            precisions = PRECISIONS if name == "stories" else ("int8",)
            known[key] = write_graphs(subject, folder, precisions)
        return known[key]

    return graphs


@pytest.fixture(scope="session")
def cached_graph(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The int8 graph with past of the small decoder, its weights beside it."""
    folder = tmp_path_factory.mktemp("platforms-past")
    pair = write_pair(shared_models / "stories260K", 2, folder, ("int8",))
    return cached_graph_in(pair.directories["int8"])


@pytest.fixture(scope="session")
def edge_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, and an emulated board for it; or a skip that says why (on CI a failure)."""
    try:
        arm.prepare()
        return build_wheel(tmp_path_factory.mktemp("edge-wheel"))
    except PlatformUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def minilm_bundle(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real MiniLM, cut 3 of 6, int8, as the exporter writes it."""
    return export(minilm, 3, tmp_path_factory.mktemp("bundles") / "minilm-cut3")
