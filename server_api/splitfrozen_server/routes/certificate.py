"""The certificate authority of a server that made its own (`tls init`)."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response

from splitfrozen.errors import RefusedError
from splitfrozen_server.services import Use

router = APIRouter(prefix="/v1/ca", tags=["health"])

MEDIA_TYPE = "application/x-pem-file"


@router.get("", response_class=Response, responses={200: {"content": {MEDIA_TYPE: {}}}})
async def get_ca(services: Use) -> Response:
    """The CA's certificate as PEM. Worth nothing to who does not compare its fingerprint."""
    path = services.config.own_ca
    if path is None:
        raise RefusedError("not_found", "this server has no certificate authority of its own")
    return Response(await asyncio.to_thread(path.read_bytes), media_type=MEDIA_TYPE)
