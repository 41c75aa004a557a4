"""What the worker answers on its socket: JSON, or an error in the shape that the API reads."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

from starlette.responses import JSONResponse

from splitfrozen.errors import SplitFrozenError

log = logging.getLogger(__name__)


async def answered(work: Awaitable[Any]) -> JSONResponse:
    """The result of `work` as JSON; whatever it raises as an error with its code."""
    try:
        return JSONResponse(await work)
    except SplitFrozenError as error:
        return JSONResponse(
            _error(error.code, error.message, error.param, error.details), error.status
        )
    except Exception as error:
        log.exception("inference failed")
        text = f"{type(error).__name__}: {error}"
        return JSONResponse(_error("internal_error", text, None, {}), 500)


def _error(code: str, message: str, param: str | None, details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "param": param, "details": details}}
