"""Is it there, is it ready, which version, how busy: no token needed."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text

from splitfrozen import __version__
from splitfrozen.wire import PROTOCOL
from splitfrozen_server.services import Use

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(services: Use) -> dict[str, str]:
    """The database answers, so shards are taken; `worker` says whether training runs too."""
    await services.database.read(lambda session: session.execute(text("SELECT 1")).scalar())
    return {"status": "ready", "database": "ok", "worker": services.worker_state}


@router.get("/version")
async def version(services: Use) -> dict[str, Any]:
    """The server's version, the protocols that it speaks, the key that signs its bundles."""
    key = services.signer.public_key
    return {"version": __version__, "protocols": [PROTOCOL], "bundle_key": key}


@router.get("/metrics")
async def metrics(services: Use) -> Response:
    """Prometheus text."""
    return Response(services.metrics.text(), media_type=CONTENT_TYPE_LATEST)
