"""Whole models written once a session: tiny ones with adapters, and the real small Llama."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from splitfrozen_export.home import HomeResult, export_server_half, export_whole
from splitfrozen_export.request import Request
from tests.export.home.adapters import write_adapter
from tests.tiny_models import write_tiny_model


def take_home(model: Path, output: Path, **fields: object) -> HomeResult:
    """Export a whole model, or the server half where `segment` asks for it."""
    half = fields.get("segment") == "server"
    request = Request(
        **{"model": str(model), "cut": 0, "output": output, "whole": not half, **fields}  # type: ignore[arg-type]
    )
    export = export_server_half if half else export_whole
    return export(request, lambda step: None)


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny model of two blocks: tracing takes a second a block."""
    written: dict[str, Path] = {}
    depth = {"gpt2": "n_layer", "bert": "num_hidden_layers", "llama": "num_hidden_layers"}

    def model(family: str) -> Path:
        if family not in written:
            directory = tmp_path_factory.mktemp("shallow") / family
            written[family] = write_tiny_model(family, directory, **{depth[family]: 2})
        return written[family]

    return model


@pytest.fixture(scope="session")
def gpt2_adapter(shallow: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("adapters") / "gpt2"
    return write_adapter(shallow("gpt2"), directory, layers=(1,))


@pytest.fixture(scope="session")
def home_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short text to measure a loss on."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("The rain in town is late, and seven old bells ring. " * 12)
    return file


@pytest.fixture(scope="session")
def gpt2_home(
    shallow: Callable[[str], Path],
    gpt2_adapter: Path,
    home_text: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> HomeResult:
    """The tiny GPT-2 with its adapter merged, fp32, its loss measured."""
    output = tmp_path_factory.mktemp("home") / "gpt2"
    return take_home(
        shallow("gpt2"), output, adapter=gpt2_adapter, precision="fp32", eval=home_text
    )
