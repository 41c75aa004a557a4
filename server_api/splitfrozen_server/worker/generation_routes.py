"""Split sessions on the worker's socket: JSON and bodies in, what `generation.py` says out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from splitfrozen_server.admission import Published
from splitfrozen_server.worker.answers import answered
from splitfrozen_server.worker.generation import Generator
from splitfrozen_server.worker.sampling import Sampling
from splitfrozen_server.worker.served import BaseRef, ModelRef
from splitfrozen_server.worker.sessions import Document, Opening


def session_routes(generator: Generator) -> list[Route]:
    """The routes of split sessions."""

    async def create(request: Request) -> Any:
        opening = parse_opening(await request.json())
        return await _result(generator.open(opening))

    async def step(request: Request) -> Any:
        session, query = request.path_params["session"], request.query_params
        body = await request.body()
        future = await run_in_threadpool(
            generator.step, session, query["owner"], int(query["sequence"]), body
        )
        return await _result(future)

    async def close(request: Request) -> Any:
        generator.close(request.path_params["session"], request.query_params["owner"])
        return {}

    return [
        _route("/sessions", create, "POST"),
        _route("/sessions/{session}/steps", step, "POST"),
        _route("/sessions/{session}", close, "DELETE"),
    ]


def parse_opening(fields: dict[str, Any]) -> Opening:
    """The API's description of a session, as `dataclasses.asdict` wrote it there."""
    ref = fields["ref"]
    return Opening(
        owner=fields["owner"],
        ref=ModelRef(BaseRef(**ref["base"]), ref["adapter"]),
        bundle=fields["bundle"],
        published=Published(**fields["published"]),
        max_positions=fields["max_positions"],
        sampling=Sampling(**fields["sampling"]),
    )


async def _result(future: Future[Document]) -> Document:
    # Shielded: a caller who hangs up must not cancel a step that its retry will ask for again.
    return await asyncio.shield(asyncio.wrap_future(future))


def _route(path: str, work: Callable[[Request], Awaitable[Any]], method: str) -> Route:
    async def endpoint(request: Request) -> JSONResponse:
        return await answered(work(request))

    return Route(path, endpoint, methods=[method])
