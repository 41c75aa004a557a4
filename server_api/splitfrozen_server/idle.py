"""Seal datasets whose devices have gone quiet."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import NoReturn

from splitfrozen_server.datasets import seal_idle
from splitfrozen_server.services import Services

INTERVAL = 1.0  # seconds between looks

log = logging.getLogger(__name__)


async def seal_idle_datasets(services: Services) -> NoReturn:
    """Look once a second; a fault of one look is logged and does not end the next."""
    started = time.monotonic()
    while True:
        await asyncio.sleep(INTERVAL)
        uptime = time.monotonic() - started
        try:
            for name in await services.database.write(partial(seal_idle, uptime=uptime)):
                log.info("dataset %s is idle: sealed", name)
        except Exception:
            log.exception("idle datasets could not be sealed; trying again")
