"""A server with a tiny base model and one bundle, without running the exporter."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from splitfrozen.manifest import (
    BaseModel,
    FileEntry,
    Manifest,
    Preprocess,
    bundle_id,
    manifest_bytes,
)
from tests.server.bodies import WIDTH, Maker
from tests.server.stack import ServerProcess, create_dataset, enrol
from tests.tiny_models import write_tiny_model

CUT = 2
FILES = {
    "device.onnx": b"graph",
    "device.onnx.data": bytes(range(256)) * 40,
    "tokenizer.json": b"{}",
}


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model("gpt2", tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def prefix_digest_of_tiny(tiny_gpt2: Path) -> str:
    from splitfrozen_export.split import prefix_digest, resolve_model

    return prefix_digest(resolve_model(tiny_gpt2), CUT)


@pytest.fixture(scope="session")
def write_bundle(tiny_gpt2: Path, prefix_digest_of_tiny: str) -> Callable[..., str]:
    """Write a bundle directory of the tiny model and return the bundle's id."""

    def write(directory: Path, **changes: Any) -> str:
        directory.mkdir(parents=True)
        for name, content in FILES.items():
            (directory / name).write_bytes(content)
        fields: dict[str, Any] = {
            "base_model": BaseModel(str(tiny_gpt2), None),
            "prefix_digest": prefix_digest_of_tiny,
            "family": "gpt2",
            "architecture": "decoder",
            "hidden_size": WIDTH,
            "num_layers": 4,
            "cut": CUT,
            "max_positions": 512,
            "vocab_size": 128,
            "precision": "int8",
            "wire": "int8",
            "wire_codecs": ("int8", "bf16", "fp32"),
            "opset": 23,
            "preprocess": Preprocess(64, "right", (), None, None, None),
            "files": {
                name: FileEntry(hashlib.sha256(content).hexdigest(), len(content))
                for name, content in FILES.items()
            },
        }
        raw = manifest_bytes(Manifest(**{**fields, **changes}))
        (directory / "splitfrozen.json").write_bytes(raw)
        return bundle_id(raw)

    return write


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory, write_bundle: Callable[..., str]) -> Path:
    directory = tmp_path_factory.mktemp("bundles") / "tiny-cut2"
    write_bundle(directory)
    return directory


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, bundle_dir: Path) -> Path:
    """A data directory in which `tiny` and its bundle are registered; copied, never served."""
    data_dir = tmp_path_factory.mktemp("prepared") / "state"
    assert ServerProcess(data_dir, "--bundle", str(bundle_dir)).stop() == 0
    return data_dir


@pytest.fixture
def data_dir(prepared: Path, tmp_path: Path) -> Path:
    """A fresh copy of the prepared data directory."""
    return Path(shutil.copytree(prepared, tmp_path / "state"))


@pytest.fixture(scope="session")
def server(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server that many tests share; each takes a dataset of its own."""
    copy = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("shared") / "state"))
    running = ServerProcess(copy)
    yield running
    assert running.stop() == 0


@pytest.fixture
def serve(data_dir: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers on this test's data directory; what still runs at the end is killed."""
    started: list[ServerProcess] = []

    def start(*options: str, **settings: Any) -> ServerProcess:
        started.append(ServerProcess(data_dir, *options, **settings))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.kill()


@dataclass(frozen=True)
class Corner:
    """A dataset of its own on the shared server, with a device's client."""

    server: ServerProcess
    dataset: str  # id
    name: str
    client: httpx.Client  # of a device
    make: Maker


@pytest.fixture(scope="session")
def device_token(server: ServerProcess) -> str:
    token: str = enrol(server)["token"]
    return token


@pytest.fixture(scope="session")
def bundle(bundle_dir: Path) -> str:
    """Id of the prepared bundle."""
    return bundle_id((bundle_dir / "splitfrozen.json").read_bytes())


@pytest.fixture
def corner(server: ServerProcess, device_token: str, bundle: str) -> Iterator[Corner]:
    name = f"data-{uuid.uuid4().hex[:12]}"
    dataset = create_dataset(server, name)["id"]
    with server.client(device_token) as client:
        yield Corner(server, dataset, name, client, Maker(bundle, dataset))
