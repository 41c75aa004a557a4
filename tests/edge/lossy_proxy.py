"""A proxy before a real server that loses what a test tells it to lose."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

_HOP = {"connection", "transfer-encoding", "content-length", "host", "content-encoding"}


class LossyProxy(ThreadingHTTPServer):
    """Forwards to `target`; `lose` counts answers per `METHOD path` that are never delivered."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = httpx.Client(base_url=target, timeout=60)
        self.lose: Counter[str] = Counter()  # the server did the work, the device hears nothing
        self.refuse: Counter[str] = Counter()  # the server never hears of it
        self.requests: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, budget: Counter[str], key: str) -> bool:
        """Whether this one is to be lost; uses one up."""
        with self.lock:
            budget[key] -= 1
            return budget[key] >= 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LossyProxy

    def handle_any(self) -> None:
        """Forward one request."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        key = f"{self.command} {self.path.partition('?')[0]}"
        with self.server.lock:
            self.server.requests.append(key)
        if self.server.take(self.server.refuse, key):
            self.close_connection = True
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        if encoding := self.headers.get("content-encoding"):
            headers["Content-Encoding"] = encoding
        answer = self.server.upstream.request(
            self.command, self.path, content=body, headers=headers
        )
        if self.server.take(self.server.lose, key):
            self.close_connection = True
            return
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the test's output."""


@contextmanager
def lossy(target: str) -> Iterator[LossyProxy]:
    """A running proxy."""
    proxy = LossyProxy(target)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
        proxy.upstream.close()
