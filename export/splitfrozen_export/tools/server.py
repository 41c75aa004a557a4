"""Requests to a server (SPEC 4), sent again while that can help. The exporter's one use of httpx.

A refusal comes back as the RefusedError that the server raised; a server that does not answer as
RefusedError `unavailable`.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from splitfrozen.errors import CODES, RefusedError
from splitfrozen.wire import PROTOCOL

ATTEMPTS = 6  # of one request; between them 1, 2, 4 ... seconds, with jitter
_PATIENCE = sum(2.0**attempt for attempt in range(ATTEMPTS - 1))  # seconds of waiting at most
_TIMEOUT = httpx.Timeout(60.0, connect=10.0, read=600.0)  # a base model may have to be hashed
_PIECE = 1 << 20  # bytes

OnBytes = Callable[[int], None]


class ServerConnection:
    """One server, one bearer token."""

    def __init__(
        self,
        server: str,
        token: str,
        *,
        ca: Path | None = None,
        wait: Callable[[float], object] = time.sleep,
        on_retry: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """`on_retry` is told once for each request that is tried again, before the first wait."""
        self.server = server.rstrip("/")
        self._wait = wait
        self._on_retry = on_retry
        trust = True if ca is None else ssl.create_default_context(cafile=str(ca))
        headers = {"Authorization": f"Bearer {token}", "SplitFrozen-Protocol": PROTOCOL}
        try:
            self._http = httpx.Client(
                base_url=self.server, headers=headers, timeout=_TIMEOUT, verify=trust
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise RefusedError("invalid_request", f"no server at {server!r}: {error}") from None

    def __enter__(self) -> ServerConnection:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        """GET a JSON object."""
        return self._retrying(lambda: self._http.get(path))

    def post(self, path: str) -> dict[str, Any]:
        """POST without a body."""
        return self._retrying(lambda: self._http.post(path))

    def put(self, path: str, body: bytes) -> dict[str, Any]:
        """PUT bytes that are in memory."""
        return self._retrying(lambda: self._http.put(path, content=body))

    def put_file(self, path: str, file: Path, on_bytes: OnBytes) -> dict[str, Any]:
        """PUT a file, read piece by piece; `on_bytes` is told how much of it was sent."""
        size = str(file.stat().st_size)

        def send() -> httpx.Response:
            headers = {"Content-Length": size, "Content-Type": "application/octet-stream"}
            return self._http.put(path, content=_pieces(file, on_bytes), headers=headers)

        return self._retrying(send)

    def _retrying(self, send: Callable[[], httpx.Response]) -> dict[str, Any]:
        """The answer's object, after at most ATTEMPTS attempts. Every request here may be repeated.

        A wrong certificate or address does not mend itself and is not tried again.
        """
        for attempt in range(ATTEMPTS):
            try:
                answer = send()
                if not answer.is_error:
                    return _document(answer)
                failure, after = refusal(answer), _retry_after(answer)
            except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
                raise RefusedError("invalid_request", f"{self.server}: {error}") from None
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
                failure, after = self._silent(reason), 0.0
                if "CERTIFICATE_VERIFY_FAILED" in reason:
                    raise failure from None
            if not failure.retryable or attempt == ATTEMPTS - 1:
                raise failure
            if attempt == 0:
                reason = failure.message.partition(";")[0]
                self._on_retry(f"{reason}; trying again for up to {_PATIENCE:.0f} s …")
            self._wait(max(after, 2**attempt * random.uniform(0.5, 1)))
        raise AssertionError("unreachable")

    def _silent(self, reason: str) -> RefusedError:
        return RefusedError(
            "unavailable",
            f"{self.server} does not answer ({reason}); is it running? The same command continues",
        )


def refusal(answer: httpx.Response) -> RefusedError:
    """The error of a refused request; a body in another shape keeps its text."""
    try:
        error = answer.json()["error"]
        code, message, param = error["code"], error["message"], error.get("param")
        details = error.get("details")
    except (ValueError, KeyError, TypeError):
        text = answer.text[:200]
        code, message, param, details = "", f"HTTP {answer.status_code}: {text}", None, None
    if code not in CODES:
        code = "unavailable" if answer.status_code >= 500 else "invalid_request"
    return RefusedError(code, message, param=param, details=details)


def _document(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RefusedError("invalid_request", f"{answer.url} is no SplitFrozen server: not JSON")
    return found


def _retry_after(answer: httpx.Response) -> float:
    text = answer.headers.get("Retry-After", "0")
    return min(float(text), 60.0) if text.isdigit() else 0.0


def _pieces(file: Path, on_bytes: OnBytes) -> Iterator[bytes]:
    sent = 0
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece
            sent += len(piece)
            on_bytes(sent)
