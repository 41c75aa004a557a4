"""Calls from the API to the worker, over a real unix socket with a worker that misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from splitfrozen.errors import RefusedError
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.services import open_services
from splitfrozen_server.worker_calls import WorkerAwayError, ask_worker

JSON = "application/json"


def reply(status: int, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def call(tmp_path: Path, *answers: bytes | None) -> dict[str, Any]:
    """Ask a worker that gives one of `answers` per request, and hangs up instead of None."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left and await reader.readuntil(b"\r\n\r\n"):
            answer = left.pop(0)
            if answer is None:
                break
            writer.write(answer)
            await writer.drain()
        writer.close()

    return asyncio.run(with_worker(tmp_path, serve))


async def with_worker(
    tmp_path: Path,
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> dict[str, Any]:
    path = tmp_path / "worker.sock"
    services = open_services(ServerConfig(data_dir=tmp_path / "state", worker_socket=path))
    server = await asyncio.start_unix_server(serve, path)
    try:
        return await ask_worker(services, "GET", "/anything")
    finally:
        server.close()
        await services.close()


def test_a_connection_that_breaks_as_it_is_used_is_tried_again(tmp_path: Path) -> None:
    assert call(tmp_path, None, reply(200, JSON, b'{"fine": 1}')) == {"fine": 1}


def test_a_worker_that_keeps_hanging_up_is_away(tmp_path: Path) -> None:
    with pytest.raises(WorkerAwayError):
        call(tmp_path, None, None, reply(200, JSON, b"{}"))


def test_no_worker_is_away(tmp_path: Path) -> None:
    async def ask() -> None:
        config = ServerConfig(data_dir=tmp_path / "state", worker_socket=tmp_path / "none.sock")
        services = open_services(config)
        try:
            await ask_worker(services, "GET", "/anything")
        finally:
            await services.close()

    with pytest.raises(WorkerAwayError):
        asyncio.run(ask())


def test_the_workers_refusal_arrives_whole(tmp_path: Path) -> None:
    error = {"code": "out_of_order", "message": "no", "param": "sequence"}
    body = json.dumps({"error": {**error, "details": {"expected": 3}}}).encode()
    with pytest.raises(RefusedError) as refused:
        call(tmp_path, reply(409, JSON, body))
    found = refused.value
    assert (found.code, found.message, found.param) == ("out_of_order", "no", "sequence")
    assert found.details == {"expected": 3}


def test_a_fault_outside_the_workers_code_is_ours(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        call(tmp_path, reply(500, "text/plain", b"Internal Server Error"))
    assert refused.value.code == "internal_error" and "500" in refused.value.message
