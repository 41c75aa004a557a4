"""An HTTP answer that is no success -> the error it stands for. Pure: status, headers, bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from splitfrozen.errors import CODES, RefusedError
from splitfrozen_edge.http.retry import RETRYABLE_STATUSES, parse_retry_after

_BY_STATUS = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    413: "too_large",
    429: "rate_limited",
    500: "internal_error",
    507: "insufficient_storage",
}


class TransientError(Exception):
    """One attempt failed and the same bytes may succeed later."""

    def __init__(self, failure: RefusedError, retry_after: float | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure  # what the user hears when patience ends
        self.retry_after = retry_after  # seconds
        self.progressed = False  # set where the next attempt continues behind what arrived


class ForeignRefusal(RefusedError):
    """Somebody in between refused, a proxy or a portal: the answer has no error of the protocol."""

    def __init__(self, code: str, message: str, answered: int) -> None:
        super().__init__(code, message)
        self.answered = answered  # HTTP status


class GaveUpError(RefusedError):
    """Patience ended; `retry_after` is how long the server asked to be left alone, in seconds."""

    def __init__(self, last: TransientError) -> None:
        failure = last.failure
        super().__init__(
            failure.code, failure.message, param=failure.param, details=failure.details
        )
        self.retry_after = last.retry_after


def read_refusal(
    status: int, headers: Mapping[str, str], body: bytes
) -> RefusedError | TransientError:
    """The error of an answer: final, or transient where SPEC 5 or the status says so."""
    error = _error_object(body)
    code = error.get("code")
    known = isinstance(code, str) and code in CODES
    failure = (
        RefusedError(
            code,
            _message(error, status),
            param=error.get("param") if isinstance(error.get("param"), str) else None,
            details=error.get("details") if isinstance(error.get("details"), dict) else None,
        )
        if known and isinstance(code, str)
        else ForeignRefusal(_code_of(status), _message(error, status), status)
    )
    # A proxy in between answers without our codes: then the status decides.
    if failure.retryable if known else status in RETRYABLE_STATUSES:
        return TransientError(failure, _retry_after(headers))
    return failure


def with_fields(document: dict[str, Any], *names: str) -> dict[str, Any]:
    """An answer that has these fields; RefusedError `unavailable` if it is something else."""
    for name in names:
        if name not in document:
            raise RefusedError("unavailable", f"the server's answer is not of the protocol: {name}")
    return document


def _retry_after(headers: Mapping[str, str]) -> float | None:
    return parse_retry_after(headers.get("retry-after"), headers.get("date"))


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        error = json.loads(body)["error"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {}


def _code_of(status: int) -> str:
    return _BY_STATUS.get(status, "unavailable" if status >= 500 else "invalid_request")


def _message(error: Mapping[str, Any], status: int) -> str:
    message = error.get("message")
    if isinstance(message, str) and message:
        return message[:2000]
    return f"the server answered with status {status} and no error of the protocol"
