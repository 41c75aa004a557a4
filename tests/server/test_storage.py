"""Full disks, slow bodies, too many at once: refused with a code to retry on, nothing corrupt."""

from __future__ import annotations

import errno
import io
import resource
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from splitfrozen.errors import RefusedError
from splitfrozen_server import blobs
from splitfrozen_server.app import create_app
from splitfrozen_server.blobs import BlobStore
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.services import open_services
from splitfrozen_server.uploads import check_space
from tests.server.bodies import Maker
from tests.server.conftest import Corner
from tests.server.stack import ServerProcess, create_dataset, enrol, put, stored

LIMIT = 6 << 20  # bytes that one file may have; the write-ahead log stays below it


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def big_body(make: Maker) -> bytes:
    """A shard of 7 MiB."""
    examples = 1000
    tokens = 58 * examples
    hidden = np.random.default_rng(0).standard_normal((tokens, 32)).astype(np.float32)
    lengths = np.full(examples, 58, np.int32)
    return make.body(0, examples=examples, codec="fp32", hidden=hidden, lengths=lengths)


def test_file_that_cannot_be_written_is_507_and_leaves_nothing(
    serve: Callable[..., ServerProcess], data_dir: Path, bundle: str
) -> None:
    server = serve(limit=limit_file_size)
    dataset, token = create_dataset(server, "full")["id"], enrol(server)["token"]
    make = Maker(bundle, dataset)
    before = stored(data_dir)
    with server.client(token) as client:
        refused = put(client, dataset, big_body(make))
        assert (refused.status_code, refused.headers["Retry-After"]) == (507, "1")
        assert refused.json()["error"]["code"] == "insufficient_storage"
        assert stored(data_dir) == before
        assert put(client, dataset, make.body(1)).status_code == 201
    server.stop()
    roomy = serve()
    with roomy.client(token) as client:
        assert put(client, dataset, big_body(make)).status_code == 201


def test_uploads_stop_before_the_disk_is_full(
    serve: Callable[..., ServerProcess], bundle: str
) -> None:
    server = serve("--keep-free", str(1 << 40))
    dataset, token = create_dataset(server, "reserve")["id"], enrol(server)["token"]
    with server.client(token) as client:
        answer = put(client, dataset, Maker(bundle, dataset).body(1))
        assert answer.json()["error"]["code"] == "insufficient_storage"


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_failed_put_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = BlobStore(tmp_path / "blobs")
    digest = "ab" + "0" * 62

    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "fsync":
        monkeypatch.setattr(blobs.os, "fsync", fail)
    else:
        monkeypatch.setattr(blobs.os, "fdopen", open_and_fail_after_one_byte)
    with pytest.raises(RefusedError) as caught:
        store.put(b"body", digest)
    assert caught.value.code == "insufficient_storage"
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


class _FullAfterOneByte(io.FileIO):
    """A file on a disk with one free byte."""

    def write(self, body: Any) -> int:
        super().write(bytes(body)[:1])
        raise OSError(errno.ENOSPC, "No space left on device")


def open_and_fail_after_one_byte(descriptor: int, mode: str) -> io.FileIO:
    return _FullAfterOneByte(descriptor, mode)


def test_space_is_kept_for_every_upload_that_may_be_under_way(tmp_path: Path) -> None:
    check_space(ServerConfig(data_dir=tmp_path, keep_free=0, max_body=1, upload_slots=1))
    with pytest.raises(RefusedError) as caught:
        check_space(ServerConfig(data_dir=tmp_path, keep_free=0, max_body=1, upload_slots=1 << 60))
    assert caught.value.code == "insufficient_storage"


class InThread:
    """The application under uvicorn in this process, for settings that `serve` does not offer."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self) -> InThread:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,))
        self._thread.start()
        assert started.wait(30)
        return self

    def __exit__(self, *arguments: object) -> None:
        self.server.should_exit = True
        self._thread.join(30)

    def _run(self, started: threading.Event) -> None:
        import asyncio

        async def main() -> None:
            services = open_services(self.config)
            config = uvicorn.Config(create_app(services), lifespan="off", log_config=None)
            self.server = uvicorn.Server(config)
            started.set()
            await self.server.serve([self.listener])
            await services.close()

        asyncio.run(main())


def test_no_free_slot_is_429_and_a_slow_body_is_503(
    corner: Corner, serve: Callable[..., ServerProcess], data_dir: Path
) -> None:
    server = serve()
    dataset, token = create_dataset(server, "slots")["id"], enrol(server)["token"]
    server.stop()
    config = ServerConfig(data_dir=data_dir, upload_slots=1, slot_wait=0.2, body_timeout=5.0)
    body = Maker(corner.make.bundle, dataset).body(1)
    with InThread(config) as running:
        headers = {"Authorization": f"Bearer {token}"}
        host, port = running.listener.getsockname()[:2]
        with socket.create_connection((host, port)) as slow:
            slow.sendall(_head(dataset, token, len(body)) + body[:10])
            with httpx.Client(base_url=running.url, headers=headers) as client:
                wait_for_busy_slot(client)
                busy = put(client, dataset, body)
                answer = slow.makefile("rb").read()
                later = put(client, dataset, body)
    assert (busy.status_code, busy.json()["error"]["code"]) == (429, "rate_limited")
    assert busy.headers["Retry-After"] == "1"
    assert answer.startswith(b"HTTP/1.1 503") and b'"unavailable"' in answer
    assert later.status_code == 201


def wait_for_busy_slot(client: httpx.Client) -> None:
    deadline = time.monotonic() + 30
    while "splitfrozen_shard_bodies_in_memory 1.0" not in client.get("/metrics").text:
        assert time.monotonic() < deadline, "the slow upload never got its slot"
        time.sleep(0.01)


def test_slow_json_body_is_503(data_dir: Path) -> None:
    token = (data_dir / "admin.token").read_text().strip()
    head = (
        "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    with (
        InThread(ServerConfig(data_dir=data_dir, body_timeout=0.2)) as running,
        socket.create_connection(running.listener.getsockname()[:2]) as slow,
    ):
        slow.sendall(head.encode() + b'{"role"')
        answer = slow.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503") and b'"unavailable"' in answer
    assert b"retry-after: 1" in answer.lower()


def test_json_body_over_the_limit_is_refused_declared_or_not(corner: Corner) -> None:
    with corner.server.client() as admin:
        huge = b'{"name": "' + b"x" * (1 << 20) + b'"}'
        declared = admin.post("/v1/tokens", content=huge)
        chunked = admin.post("/v1/tokens", content=iter([huge]))
    for answer in (declared, chunked):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def _head(dataset: str, token: str, size: int) -> bytes:
    path = f"/v1/activation_datasets/{dataset}/shards/{'0' * 64}"
    return (
        f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {size}\r\nConnection: close\r\n\r\n"
    ).encode()
