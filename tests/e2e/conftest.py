"""A running stack and the bundles that end-to-end tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, export


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    running = Stack(tmp_path)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def minilm_bundle(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real MiniLM, cut 3 of 6, int8."""
    return export(minilm, 3, tmp_path_factory.mktemp("bundles") / "minilm-cut3")


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny random gpt2, cut 2 of 4, int8; random weights get a wider error limit."""
    output = tmp_path_factory.mktemp("bundles") / "tiny-cut2"
    return export(tiny_model("gpt2"), 2, output, "--max-error", 0.5)
