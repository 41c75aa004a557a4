"""What a request may use: made once by `serve`, kept at `app.state.services`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, cast

import httpx
from fastapi import Depends, Request

from splitfrozen_server.blobs import BlobStore
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.database.engine import Database
from splitfrozen_server.disk_room import DiskRoom
from splitfrozen_server.inspection import PrefixDigests
from splitfrozen_server.locks import KeyedLocks
from splitfrozen_server.metrics import Metrics
from splitfrozen_server.signing import BundleSigner, open_signer


@dataclass
class Services:
    """The server's long-lived objects."""

    config: ServerConfig
    database: Database
    blobs: BlobStore  # shards only, named by digest
    inference: httpx.AsyncClient  # the worker, over its unix socket
    signer: BundleSigner
    metrics: Metrics = field(default_factory=Metrics)
    prefix_digests: PrefixDigests = field(default_factory=PrefixDigests)
    worker_state: str = "not started"  # for /ready: running | restarting | disabled
    upload_slots: asyncio.Semaphore = field(init=False)  # one for each shard body in memory
    inference_slots: asyncio.Semaphore = field(init=False)  # one for each body at the worker
    step_slots: asyncio.Semaphore = field(init=False)  # one for each step of a split session
    disk_room: DiskRoom = field(init=False)  # for files of bundles
    upload_begins: asyncio.Lock = field(default_factory=asyncio.Lock)  # one begins at a time
    erasing: asyncio.Lock = field(default_factory=asyncio.Lock)  # one erasure at a time
    digest_locks: KeyedLocks = field(default_factory=KeyedLocks)  # one upload of a digest at once

    def __post_init__(self) -> None:
        self.upload_slots = asyncio.Semaphore(self.config.upload_slots)
        self.inference_slots = asyncio.Semaphore(self.config.inference_slots)
        self.step_slots = asyncio.Semaphore(self.config.step_slots)
        self.disk_room = DiskRoom(self.config.data_dir, self.config.keep_free)

    async def close(self) -> None:
        """Finish writes and close connections."""
        await self.inference.aclose()
        self.database.close()


def open_services(config: ServerConfig) -> Services:
    """Open database and blob store of `config.data_dir`, creating what is missing."""
    config.data_dir.mkdir(parents=True, exist_ok=True)
    transport = httpx.AsyncHTTPTransport(uds=str(config.worker_socket))
    return Services(
        config=config,
        database=Database(config.database_url),
        blobs=BlobStore(config.blob_dir),
        inference=httpx.AsyncClient(transport=transport, base_url="http://worker"),
        signer=open_signer(config.bundle_key_file),
    )


def get_services(request: Request) -> Services:
    """FastAPI dependency."""
    return cast(Services, request.app.state.services)


Use = Annotated[Services, Depends(get_services)]
