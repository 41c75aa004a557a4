"""Ask the worker over its unix socket. A refusal of the worker comes back as ours."""

from __future__ import annotations

from typing import Any

import httpx

from splitfrozen.errors import CODES, RefusedError
from splitfrozen_server.services import Services

TIMEOUT = httpx.Timeout(120.0, connect=5.0)  # seconds; the first request loads the model


class WorkerAwayError(Exception):
    """The worker is not running, or ended before it answered."""


async def ask_worker(services: Services, method: str, path: str, **request: Any) -> dict[str, Any]:
    """The JSON of the worker's answer; `request` as httpx takes it. It may be sent twice.

    Raises WorkerAwayError, RefusedError `unavailable` when it takes too long, and what it refused
    with.
    """
    try:
        answer = await _send(services, method, path, request)
    except httpx.TimeoutException as error:
        raise RefusedError("unavailable", "the worker is busy; try again") from error
    except httpx.TransportError as error:
        raise WorkerAwayError from error
    if "json" not in answer.headers.get("content-type", ""):  # a fault outside the worker's code
        raise RefusedError(
            "internal_error", f"the worker answered {answer.status_code}, see its log"
        )
    found: dict[str, Any] = answer.json()
    if answer.is_error:
        raise _refusal(found["error"])
    return found


def away() -> RefusedError:
    """What a client is told that can only wait for the worker."""
    return RefusedError("unavailable", "the worker does not answer yet; try again")


async def _send(
    services: Services, method: str, path: str, request: dict[str, Any]
) -> httpx.Response:
    """One attempt, and another if the connection broke: an idle one may be closed as it is used."""
    try:
        return await services.inference.request(method, path, timeout=TIMEOUT, **request)
    except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
        if isinstance(error, httpx.ConnectError):
            raise
        return await services.inference.request(method, path, timeout=TIMEOUT, **request)


def _refusal(error: dict[str, Any]) -> RefusedError:
    code = error["code"] if error["code"] in CODES else "internal_error"
    return RefusedError(code, error["message"], param=error["param"], details=error["details"])
