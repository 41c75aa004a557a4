"""A real TLS server (uvicorn) with certificates of `splitfrozen-server tls init`."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from splitfrozen_server.tls import TlsFiles


class _Quiet(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are pytest's."""
        yield


@dataclass
class TlsServer:
    """Answers what an enrolment asks, and remembers who sent which token."""

    port: int = 0
    authority: bytes | None = None  # what GET /v1/ca answers
    bundle_key: str | None = "ab" * 32
    redirect: str | None = None  # where every request is sent on to
    context: ssl.SSLContext | None = None  # of the connections to come
    seen: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, authorization

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        method, path = scope["method"], scope["path"]
        self.seen.append((method, path, headers.get("authorization", "")))
        status, body = self._answer(method, path)
        extra = [(b"location", self.redirect.encode())] if self.redirect else []
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": status, "headers": [length, *extra]})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, method: str, path: str) -> tuple[int, bytes]:
        if self.redirect:
            return 307, b""
        if path == "/v1/ca":
            return (200, self.authority) if self.authority else (404, b"{}")
        if path == "/version":
            return 200, json.dumps({"bundle_key": self.bundle_key}).encode()
        if (method, path) == ("POST", "/v1/devices"):
            return 201, json.dumps({"id": "dev_1", "token": "sf_dev_given"}).encode()
        return 200, json.dumps({"id": "dev_1"}).encode()


@contextmanager
def serving(directory: Path, *, port: int = 0, authority: bool = True) -> Iterator[TlsServer]:
    """Serve with the certificate in `directory`; on the same `port` as one before, if given."""
    files = TlsFiles(directory)
    app = TlsServer(authority=files.ca.read_bytes() if authority else None)
    config = uvicorn.Config(
        app,
        port=port,
        log_config=None,
        lifespan="off",
        ws="none",
        ssl_certfile=files.server,
        timeout_graceful_shutdown=1,
    )
    server = _Quiet(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        app.context = config.ssl
        app.port = server.servers[0].sockets[0].getsockname()[1]
        yield app
    finally:
        server.should_exit = True
        thread.join()
