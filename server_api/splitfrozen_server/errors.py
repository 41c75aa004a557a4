"""Every refusal in OpenAI's shape: {"error": {"message", "type", "param", "code", "details"}}.

`code` and status come from the table of `splitfrozen.errors`; `details` is there only when the
refusal has any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from splitfrozen.errors import RefusedError, SplitFrozenError

RETRY_AFTER = 1  # seconds, with every retryable refusal

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_HTTP_CODES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    413: "too_large",
    503: "unavailable",
}


def error_body(error: SplitFrozenError) -> dict[str, Any]:
    """The JSON body of a refusal."""
    return _body(error.status, error.code, error.message, error.param, error.details)


def error_headers(error: SplitFrozenError) -> dict[str, str]:
    """Headers that go with a refusal."""
    headers = {}
    if error.retryable:
        headers["Retry-After"] = str(RETRY_AFTER)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def error_response(error: SplitFrozenError) -> JSONResponse:
    """The HTTP answer of a refusal."""
    return JSONResponse(error_body(error), error.status, error_headers(error))


def add_error_handlers(app: FastAPI) -> None:
    """Answer every exception of `app` in the one shape."""
    app.add_exception_handler(SplitFrozenError, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)


def _body(
    status: int, code: str, message: str, param: str | None, details: Mapping[str, Any]
) -> dict[str, Any]:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    found: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    if details:
        found["details"] = dict(details)
    return {"error": found}


async def _on_refusal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SplitFrozenError)
    return error_response(error)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = _field(first["loc"])
    message = f"{param}: {first['msg']}" if param else str(first["msg"])
    return error_response(RefusedError("invalid_request", message, param=param))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    """Starlette's own refusals and the middleware's: no such route, a body too large or slow."""
    assert isinstance(error, HTTPException)
    fallback = "internal_error" if error.status_code >= 500 else "invalid_request"
    code = _HTTP_CODES.get(error.status_code, fallback)
    message = f"{request.method} {request.url.path}: {error.detail}"
    body = _body(error.status_code, code, message, None, {})
    return JSONResponse(body, error.status_code, error.headers)


async def _on_fault(request: Request, error: Exception) -> JSONResponse:
    """A bug: the traceback goes to the log (Starlette raises on), the client learns only a code."""
    return error_response(RefusedError("internal_error", "a fault of the server; see its log"))


def _field(location: Sequence[int | str]) -> str | None:
    """`("body", "method", "type")` -> `method.type`."""
    parts = [str(part) for part in location if part not in ("body", "query", "path", "header")]
    return ".".join(parts) or None
