"""Receiving a shard's body: bounded in bytes, in time, and in how many are in memory at once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from splitfrozen.errors import RefusedError, WireError
from splitfrozen.wire import Shard
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.decoding import Limits, check_encoding, decode_body
from splitfrozen_server.services import Services


@asynccontextmanager
async def receive_shard(
    request: Request, services: Services, slots: asyncio.Semaphore, *, expected: str | None
) -> AsyncIterator[tuple[bytes, Shard]]:
    """Read, decompress and decode the body of `request`; it holds one of `slots` meanwhile.

    `expected` is the SHA-256 that the URL declares, None where it declares none. Raises WireError
    for a bad body, RefusedError `digest_mismatch`, `rate_limited`, `insufficient_storage`.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    check_encoding(encoding)
    limits = Limits(services.config.max_body, services.config.max_ratio)
    _check_declared_size(request, limits)
    async with _slot(services, slots):
        raw = await _read(request, services.config, limits)
        yield await asyncio.to_thread(decode_body, raw, encoding, limits, expected)


def check_space(config: ServerConfig) -> None:
    """Refuse uploads before the disk is so full that the database or training would fail."""
    free = shutil.disk_usage(config.data_dir).free
    if free < config.keep_free + config.upload_slots * config.max_body:  # all may be under way
        raise RefusedError(
            "insufficient_storage", f"the server's disk has {free} bytes left; uploads are paused"
        )


@asynccontextmanager
async def _slot(services: Services, slots: asyncio.Semaphore) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(services.config.slot_wait):
            await slots.acquire()
    except TimeoutError:
        raise RefusedError(
            "rate_limited", "too many bodies are being received and answered; wait"
        ) from None
    services.metrics.bodies.inc()
    try:
        yield
    finally:
        services.metrics.bodies.dec()
        slots.release()


async def _read(request: Request, config: ServerConfig, limits: Limits) -> bytes:
    """The raw body. Too slow a sender is told to retry; a broken connection raises on."""
    received = bytearray()
    try:
        async with asyncio.timeout(config.body_timeout):
            async for piece in request.stream():
                received += piece
                if len(received) > limits.max_wire:
                    raise WireError("too_large", f"the body exceeds {limits.max_wire} bytes")
    except TimeoutError:
        raise RefusedError(
            "unavailable", f"the body did not arrive within {config.body_timeout:g} s"
        ) from None
    return bytes(received)


def _check_declared_size(request: Request, limits: Limits) -> None:
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limits.max_wire:
        raise WireError(
            "too_large", f"the body has {declared} bytes; at most {limits.max_wire} are read"
        )
