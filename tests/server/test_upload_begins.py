"""Many uploads that begin in the same moment: none waits for ever, and no more begin than may."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import httpx
import pytest

from splitfrozen_server.config import ServerConfig
from tests.server.stack import ServerProcess
from tests.server.test_bundle_uploads import id_of, put

AT_ONCE = 16


@pytest.fixture(scope="module")
def server(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that has not looked at its base model yet: the first uploads make it do so."""
    copy = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("begins") / "state"))
    running = ServerProcess(copy)
    yield running
    assert running.stop() == 0


@pytest.fixture
def different(tmp_path: Path, write_bundle: Callable[..., str]) -> Iterator[list[Path]]:
    """Bundles of the registered model, each with an id of its own."""
    found = [tmp_path / str(number) for number in range(AT_ONCE)]
    for directory in found:
        write_bundle(directory, opset=20, tools={"test": directory.name})
    yield found


def begin_at_once(server: ServerProcess, directories: list[Path]) -> list[httpx.Response]:
    """The manifest of every directory, from as many connections, released together."""
    barrier = Barrier(len(directories))

    def begin(directory: Path) -> httpx.Response:
        with server.client() as admin:
            admin.get("/v1/bundles")  # connected and let in before the start
            barrier.wait()
            return put(admin, directory, "splitfrozen.json")

    with ThreadPoolExecutor(len(directories)) as pool:
        return list(pool.map(begin, directories))


def test_of_many_that_begin_at_once_as_many_may_as_there_are_places(
    server: ServerProcess, different: list[Path]
) -> None:
    """Their prefix digest is computed once, not in as many processes."""
    limit = ServerConfig(data_dir=server.data_dir).max_incoming
    assert limit < AT_ONCE
    answers = begin_at_once(server, different)
    expected = {201: limit, 429: AT_ONCE - limit}
    assert Counter(answer.status_code for answer in answers) == expected
    begun = [id_of(d) for d, a in zip(different, answers, strict=True) if a.status_code == 201]
    assert open_uploads(server) == set(begun)
    give_up(server, begun)


def test_one_bundle_that_many_begin_at_once_is_one_upload(
    server: ServerProcess, different: list[Path]
) -> None:
    answers = begin_at_once(server, [different[0]] * AT_ONCE)
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: AT_ONCE - 1}
    assert open_uploads(server) == {id_of(different[0])}
    give_up(server, [id_of(different[0])])


def open_uploads(server: ServerProcess) -> set[str]:
    return {place.suffix[1:] for place in (server.data_dir / "incoming").glob("default.*")}


def give_up(server: ServerProcess, bundles: list[str]) -> None:
    with server.client() as admin:
        for bundle in bundles:
            assert admin.delete(f"/v1/bundles/{bundle}/upload").status_code == 200
