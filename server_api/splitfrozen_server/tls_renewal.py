"""A server that runs for years renews its own certificate, and takes up one renewed by hand."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import NoReturn

from splitfrozen.errors import SplitFrozenError
from splitfrozen_server.tls import TlsFiles, renew_when_due

INTERVAL = 3600.0  # seconds between looks

log = logging.getLogger(__name__)


async def keep_renewed(
    directory: Path, context: ssl.SSLContext, *, interval: float = INTERVAL
) -> NoReturn:
    """Look at the certificate in `directory` for ever; new connections get the newest one.

    A fault of one look is logged and does not end the next.
    """
    path = TlsFiles(directory).server
    served = await asyncio.to_thread(path.read_bytes)
    while True:
        await asyncio.sleep(interval)
        try:
            await asyncio.to_thread(renew_when_due, directory)
            found = await asyncio.to_thread(path.read_bytes)
            if found != served:
                context.load_cert_chain(path)
                served = found
                log.info("the certificate in %s is taken up", directory)
        except (OSError, ValueError, SplitFrozenError):
            log.exception("the certificate in %s cannot be renewed; trying again", directory)
