"""What happens to every request around its route: protocol version, size limit, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from splitfrozen.errors import RefusedError
from splitfrozen.wire import PROTOCOL
from splitfrozen_server.errors import RETRY_AFTER, error_response
from splitfrozen_server.metrics import Metrics

PROTOCOL_HEADER = "SplitFrozen-Protocol"


class ProtocolMiddleware:
    """Refuse a protocol version that the server does not speak; name ours in every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get(PROTOCOL_HEADER, PROTOCOL)
        if asked == PROTOCOL:
            await self._app(scope, receive, _with_protocol(send))
            return
        refusal = RefusedError(
            "unsupported_protocol",
            f"protocol {asked[:20]!r} is not supported; supported: {PROTOCOL}",
            param=PROTOCOL_HEADER,
            details={"supported": [PROTOCOL]},
        )
        await error_response(refusal)(scope, receive, _with_protocol(send))


class BodyLimitMiddleware:
    """Refuse bodies over `limit` bytes, declared or found out, or that take over `timeout` seconds.

    Routes of `is_exempt` read and bound their bodies themselves.
    """

    def __init__(
        self, app: ASGIApp, limit: int, timeout: float, is_exempt: Callable[[Scope], bool]
    ) -> None:
        self._app = app
        self._limit = limit
        self._timeout = timeout
        self._is_exempt = is_exempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_exempt(scope):
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdigit() and int(declared) > self._limit:
            refusal = RefusedError("too_large", f"the body exceeds {self._limit} bytes")
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, self._limited(receive), send)

    def _limited(self, receive: Receive) -> Receive:
        total = 0
        deadline: float | None = asyncio.get_running_loop().time() + self._timeout

        async def counted() -> Message:
            nonlocal total, deadline
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                # The one kind of exception that FastAPI lets through while it reads a body.
                reason = f"the body did not arrive within {self._timeout:g} s"
                raise HTTPException(503, reason, {"Retry-After": str(RETRY_AFTER)}) from None
            total += len(message.get("body", b""))
            if total > self._limit:
                raise HTTPException(413, f"the body exceeds {self._limit} bytes")
            if not message.get("more_body", False):
                deadline = None  # what comes next is the end of the connection
            return message

        return counted


class MetricsMiddleware:
    """Count requests and their time by route template, never by raw path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = "500"
        start = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.requests.labels(scope["method"], route, status).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)


def _with_protocol(send: Send) -> Send:
    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            header = (PROTOCOL_HEADER.lower().encode(), PROTOCOL.encode())
            message = {**message, "headers": [*message.get("headers", []), header]}
        await send(message)

    return named
