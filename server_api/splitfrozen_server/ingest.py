"""Storing a shard: check, blob, row, in the only order that loses nothing and keeps no refusal."""

from __future__ import annotations

import asyncio
import logging

from splitfrozen_server.database.tables import ShardRow
from splitfrozen_server.services import Services
from splitfrozen_server.shards import Arrival, admit, blob_is_needed, check_arrival

log = logging.getLogger(__name__)


async def store(services: Services, arrival: Arrival, body: bytes) -> tuple[ShardRow, bool]:
    """Store a shard durably; returns its row and whether it is new.

    The blob comes first: a row without its bytes would break a promise, a blob without its row is
    swept up at the next start. Uploads of one digest take turns, so that the clean-up of a refused
    one never takes the blob of an accepted one.
    """
    async with services.digest_locks.hold(arrival.digest):
        stored = await services.database.read(lambda session: check_arrival(session, arrival))
        if stored is not None:
            await _put_back(services, arrival.digest, body)
            return stored, False
        await asyncio.to_thread(services.blobs.put, body, arrival.digest)
        try:
            return await services.database.write(lambda session: admit(session, arrival))
        except Exception:
            await _discard(services, arrival.digest)
            raise


async def _put_back(services: Services, digest: str, body: bytes) -> None:
    """Store the bytes of a known shard again if they were lost: a receipt promises them."""
    if not await asyncio.to_thread(services.blobs.has, digest):
        log.warning("shard %s had lost its bytes; they are stored again", digest)
        await asyncio.to_thread(services.blobs.put, body, digest)


async def _discard(services: Services, digest: str) -> None:
    """Remove the blob of a refused shard, unless a row has come to need it."""
    if not await services.database.read(lambda session: blob_is_needed(session, digest)):
        await asyncio.to_thread(services.blobs.delete, digest)
