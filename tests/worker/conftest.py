"""Fixtures of the worker's tests: a model, its device side, a running server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import write_tiny_model
from tests.worker.server import Server
from tests.worker.shards import DECODER_BUNDLE, ShardMaker, completion_examples, push_examples

_DECODERS = ("stories", "gpt2", "llama", "gemma3", "short")
_BUNDLES = {name: str(place) * 64 for place, name in enumerate(_DECODERS)}


@pytest.fixture(scope="session")
def bert(tiny_model: Callable[[str], Path]) -> ShardMaker:
    """A tiny encoder's device side."""
    return ShardMaker(tiny_model("bert"))


@pytest.fixture(scope="session")
def llama(tiny_model: Callable[[str], Path]) -> ShardMaker:
    """A tiny decoder's device side."""
    return ShardMaker(tiny_model("llama"), bundle=DECODER_BUNDLE)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server of its own for one model; it is stopped at the end of the test."""
    started: list[Server] = []

    def start(model: Path, *options: str) -> Server:
        server = Server(tmp_path / f"state{len(started)}")
        server.add_model(model)
        started.append(server)
        return server.start(*options)

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]
) -> Iterator[Server]:
    """A server that knows the tiny encoder and the tiny decoder, shared by all tests."""
    server = Server(tmp_path_factory.mktemp("shared") / "state")
    server.add_model(tiny_model("bert"))
    server.add_model(tiny_model("llama"), name="tiny-llama", bundle=DECODER_BUNDLE)
    yield server.start()
    server.close()


@pytest.fixture(scope="session")
def trained(server: Server, bert: ShardMaker) -> dict[str, Any]:
    """A succeeded job on the shared server: it tells the two labels apart."""
    dataset = server.create_dataset()
    push_examples(server, bert, dataset["id"], 96)
    server.seal(dataset["id"])
    job = server.create_job(
        dataset["name"],
        suffix="my-words",
        hyperparameters={"n_epochs": 6},
        splitfrozen={"eval_fraction": 0.2, "learning_rate": 1e-2},
    )
    assert (job["object"], job["fine_tuned_model"]) == ("fine_tuning.job", None)
    job = server.wait_for_end(job["id"])
    assert job["status"] == "succeeded", job["error"]
    return job


@pytest.fixture(scope="session")
def decoders(
    tiny_model: Callable[[str], Path], shared_models: Path, tmp_path_factory: Any
) -> dict[str, Path]:
    """Models that generate: real weights, tiny random ones, one with room for 16 tokens."""
    tiny = {name: tiny_model(name) for name in _DECODERS[1:-1]}
    short = write_tiny_model("gpt2", tmp_path_factory.mktemp("short") / "gpt2", n_positions=16)
    return {"stories": shared_models / "stories260K", **tiny, "short": short}


@pytest.fixture(scope="session")
def generation(
    decoders: dict[str, Path], tiny_model: Callable[[str], Path], tmp_path_factory: Any
) -> Iterator[Server]:
    """A server that knows them, and the tiny encoder as `tiny`."""
    server = Server(tmp_path_factory.mktemp("generation") / "state")
    server.add_model(tiny_model("bert"))
    for name, path in decoders.items():
        server.add_model(path, name=name, bundle=_BUNDLES[name])
    yield server.start()
    server.close()


@pytest.fixture(scope="session")
def makers(decoders: dict[str, Path]) -> dict[str, ShardMaker]:
    """Their device sides."""
    return {name: ShardMaker(path, bundle=_BUNDLES[name]) for name, path in decoders.items()}


@pytest.fixture(scope="session")
def counting(generation: Server, makers: dict[str, ShardMaker]) -> dict[str, Any]:
    """A trained adapter of the tiny llama: it counts."""
    server = generation
    dataset = server.create_dataset(task="causal_lm", base_model="llama")["id"]
    for start in range(0, 96, 32):
        part = completion_examples(32, seed=start)
        server.push(makers["llama"].shard(part, dataset=dataset, task="causal_lm", name=str(start)))
    server.seal(dataset)
    job = server.create_job(
        dataset, model="llama", suffix="counts",
        splitfrozen={"learning_rate": 1e-2}, hyperparameters={"n_epochs": 4},
    )  # fmt: skip
    job = server.wait_for_end(job["id"])
    assert job["status"] == "succeeded", job["error"]
    return job
