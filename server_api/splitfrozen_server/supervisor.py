"""Keep the training worker running: restarted with growing pauses, ended with the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from typing import NoReturn

from splitfrozen_server.services import Services

FIRST_PAUSE = 0.5  # seconds before the first restart; doubles each time
LONGEST_PAUSE = 30.0
STABLE = 60.0  # a worker that ran this long starts the pauses anew
STOP_PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL
# The API shares the cores with training. Threads that spin while they wait for each other, as
# OpenMP's do by default, slow a step many times over as soon as anything else wants a core.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}

log = logging.getLogger(__name__)


def worker_command(services: Services) -> list[str]:
    """The worker's command line."""
    config = services.config
    return [
        sys.executable,
        "-P",  # a file in the working directory must not pass for a module
        "-m",
        "splitfrozen_server.worker",
        "--data-dir",
        str(config.data_dir),
        "--control-socket",
        str(config.control_socket),
        "--worker-socket",
        str(config.worker_socket),
        "--parent-pid",
        str(os.getpid()),
        "--max-sessions",
        str(config.max_sessions),
        "--session-idle",
        str(config.session_idle),
        *_memory_option(config.session_memory),
    ]


def _memory_option(size: int | None) -> list[str]:
    return [] if size is None else ["--session-memory", str(size)]


async def supervise(services: Services, command: list[str]) -> NoReturn:
    """Run `command` for ever; cancel this to end it."""
    pause = FIRST_PAUSE
    while True:
        started = time.monotonic()
        try:
            status: object = await _run(services, command)
        except OSError as error:  # no memory or processes left: they may come back
            status = error
        services.worker_state = "restarting"
        services.metrics.worker_restarts.inc()
        if time.monotonic() - started > STABLE:
            pause = FIRST_PAUSE
        log.warning("the worker ended with status %s; starting it again in %.1f s", status, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def _run(services: Services, command: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, env={**ENVIRONMENT, **os.environ}
    )
    services.worker_state = "running"
    try:
        return await process.wait()
    except asyncio.CancelledError:
        await _stop(process)
        raise


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_PATIENCE)
        except TimeoutError:
            process.kill()
            await process.wait()
