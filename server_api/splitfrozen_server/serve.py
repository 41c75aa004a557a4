"""The server process: public HTTP, the control socket, the worker, and their common end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from splitfrozen import __version__
from splitfrozen_server.app import create_app
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.control import create_control_app
from splitfrozen_server.first_token import ensure_admin_token
from splitfrozen_server.idle import seal_idle_datasets
from splitfrozen_server.jobs.leases import forgive
from splitfrozen_server.recovery import Recovered, recover
from splitfrozen_server.services import Services, open_services
from splitfrozen_server.sockets import bind, socket_directory
from splitfrozen_server.starter import register_at_start
from splitfrozen_server.supervisor import supervise, worker_command
from splitfrozen_server.tls_renewal import keep_renewed

GRACE = 5  # seconds that open requests get at the end

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to us: there are two in this process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def run(
    config: ServerConfig, bundles: list[tuple[Path, str | None]], say: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT. `say` prints lines for the person who started it.

    Raises OSError if the address cannot be bound, BlockingIOError if another server has the data
    directory, SplitFrozenError if a bundle cannot be registered.
    """
    os.umask(0o077)  # activations are as good as the text; the worker inherits it
    _make_private(config.data_dir)
    with _only_server(config.data_dir), socket_directory(config.data_dir) as directory:
        listener = bind(config.host, config.port)
        placed = replace(
            config,
            data_dir=config.data_dir.absolute(),
            control_socket=directory / "control.sock",
            worker_socket=directory / "worker.sock",
        )
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            runner.run(_serve(placed, listener, bundles, say))


async def _serve(
    config: ServerConfig,
    listener: socket.socket,
    bundles: list[tuple[Path, str | None]],
    say: Callable[[str], None],
) -> None:
    services = open_services(config)
    try:
        _prepare(services, say)
        for directory, model in bundles:
            row = await register_at_start(services, directory, model)
            say(f"Bundle {row.id} (cut {row.cut}, {row.precision}) from {directory}")
        await _run_until_signal(services, listener, say)
    finally:
        await services.close()


def _prepare(services: Services, say: Callable[[str], None]) -> None:
    config = services.config
    _report(recover(services.database, services.blobs, config), config)
    services.database.write_sync(forgive)
    token = ensure_admin_token(services.database, config.admin_token_file)
    say(f"Admin token file: {config.admin_token_file}")
    if token is not None:
        say(f"Admin token: {token}")


def _report(found: Recovered, config: ServerConfig) -> None:
    if found.parts:
        log.info("removed %d interrupted writes", found.parts)
    if found.erased:
        log.info("finished %d erasures that the last stop had cut off", found.erased)
    if found.returned:
        log.info("took %d shards and bundles back from %s", found.returned, config.orphan_dir)
    if found.orphans:
        log.warning(
            "put %d shards and bundles that the database does not know into %s. After a crash "
            "these are unacknowledged uploads: delete that directory. After a restore of an older "
            "database they are data: restore the newer one and start again, they are taken back.",
            found.orphans,
            config.orphan_dir,
        )
    if found.missing:
        log.error("LOST: %d stored shards have no bytes: %s", len(found.missing), found.missing[:9])


async def _run_until_signal(
    services: Services, listener: socket.socket, say: Callable[[str], None]
) -> None:
    config = services.config
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    control = await _start(create_control_app(services), uds=str(config.control_socket))
    config.control_socket.chmod(0o600)
    background = [asyncio.create_task(seal_idle_datasets(services))]
    if config.run_worker:
        background.append(asyncio.create_task(supervise(services, worker_command(services))))
    else:
        services.worker_state = "disabled"
    public = await _start(
        create_app(services), [listener], ssl_certfile=config.tls_cert, ssl_keyfile=config.tls_key
    )
    if config.own_ca is not None and public.context is not None:
        background.append(asyncio.create_task(keep_renewed(config.own_ca.parent, public.context)))
    say(f"SplitFrozen {__version__} on {_address(config, listener)} (API: /docs)")
    await stop.wait()
    log.info("stopping")
    await public.end()
    for task in background:  # before the control socket ends: the worker may be calling it
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    await control.end()


class _Running:
    """A started uvicorn server and its task."""

    def __init__(self, server: _Server, task: asyncio.Task[None]) -> None:
        self._server = server
        self._task = task

    @property
    def context(self) -> ssl.SSLContext | None:
        """What new TLS connections are made with."""
        return self._server.config.ssl

    async def end(self) -> None:
        """Refuse new connections, let open requests finish, and wait."""
        self._server.should_exit = True
        await self._task


async def _start(app: Any, sockets: list[socket.socket] | None = None, **options: Any) -> _Running:
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        **options,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets))
    while not server.started:
        if task.done():
            await task
            raise RuntimeError("uvicorn did not start")
        await asyncio.sleep(0.01)
    return _Running(server, task)


def _make_private(data_dir: Path) -> None:
    """Create the data directory for its user only; shut one that earlier versions left open.

    A directory with other people's files and no database of ours keeps its mode: it was named by
    mistake, or is shared on purpose.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    if not any(data_dir.iterdir()) or (data_dir / "splitfrozen.db").exists():
        try:
            data_dir.chmod(0o700)
        except PermissionError:
            log.warning("%s belongs to another user; its mode is left as it is", data_dir)


@contextmanager
def _only_server(data_dir: Path) -> Iterator[None]:
    """Hold the data directory: SQLite allows one writing process."""
    with (data_dir / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _address(config: ServerConfig, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "https" if config.has_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
