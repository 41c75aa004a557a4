"""`splitfrozen-server`: serve, and manage a running server over HTTP.

Exit codes: 0 done, 1 the work failed, 2 wrong usage or bad input, 3 the server refused or does
not answer, 130 interrupted.
"""

from __future__ import annotations

import errno
import logging
import sys
from dataclasses import replace
from pathlib import Path

import click

from splitfrozen import __version__
from splitfrozen.errors import RefusedError, SplitFrozenError
from splitfrozen_server import manage, manage_jobs, manage_tls
from splitfrozen_server.cli_options import Duration, data_dir_option
from splitfrozen_server.client import UnreachableError
from splitfrozen_server.config import ServerConfig


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="splitfrozen-server")
def cli() -> None:
    """Collect frozen activations from devices, train LoRA above them, serve the adapters."""


@cli.command()
@data_dir_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free port."
)
@click.option(
    "--bundle",
    "bundles",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="Register this bundle and its base model at the start. Repeatable.",
)
@click.option("--model", help="Hub id or directory of the base model of --bundle.")
@click.option("--idle-seal", type=Duration(), help="Seal datasets this long after the last shard.")
@click.option(
    "--tls-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM file."
)
@click.option(
    "--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM file."
)
@click.option(
    "--allow-plain-http", is_flag=True, help="Listen beyond this machine without encryption."
)
@click.option(
    "--allow-remote-code", is_flag=True, help="Let admins register models that run own code."
)
@click.option("--worker/--no-worker", "run_worker", default=True, help="Train here, or not.")
@click.option(
    "--keep-free",
    type=click.IntRange(0),
    default=64,
    show_default=True,
    help="MiB of disk that uploads leave free.",
)
@click.option(
    "--session-memory",
    type=click.IntRange(1),
    help="MiB for the keys and values of split sessions. Default: a quarter of the memory.",
)
@click.option(
    "--max-sessions",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Split sessions at once; beyond, the one used longest ago is dropped.",
)
@click.option(
    "--session-idle",
    type=Duration(),
    default="10m",
    show_default=True,
    help="Drop a split session this long after its last step.",
)
def serve(
    data_dir: Path,
    host: str,
    port: int,
    bundles: tuple[Path, ...],
    model: str | None,
    idle_seal: float | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    allow_plain_http: bool,
    allow_remote_code: bool,
    run_worker: bool,
    keep_free: int,
    session_memory: int | None,
    max_sessions: int,
    session_idle: float,
) -> None:
    """Run the server: SQLite, local files, one training worker. Prints an admin token at first."""
    config = ServerConfig(
        data_dir=data_dir,
        host=host,
        port=port,
        tls_cert=tls_cert,
        tls_key=tls_key,
        allow_plain_http=allow_plain_http,
        allow_remote_code=allow_remote_code,
        run_worker=run_worker,
        idle_seal=idle_seal,
        keep_free=keep_free << 20,
        session_memory=None if session_memory is None else session_memory << 20,
        max_sessions=max_sessions,
        session_idle=session_idle,
    )
    config = with_own_certificate(config)
    check_exposure(config)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for name in ("alembic", "httpx", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    _run(config, [(bundle, model) for bundle in bundles])


def with_own_certificate(config: ServerConfig) -> ServerConfig:
    """Serve with what `tls init` made, if it did, unless told otherwise or seen by nobody else."""
    from splitfrozen_server.tls import TlsFiles, read_tls, renew_when_due

    files = TlsFiles(config.tls_dir)
    if config.is_loopback or config.tls_cert or config.tls_key or config.allow_plain_http:
        return config
    if not files.complete:
        return config
    try:
        state = renew_when_due(config.tls_dir)
    except (OSError, SplitFrozenError) as error:
        state = read_tls(config.tls_dir)  # it serves on with what it has, if it has something
        click.echo(f"WARNING: the certificate cannot be renewed: {error}", err=True)
    click.echo(f"TLS: own authority, pin {state.pin}, certificate until {state.server_until:%F}")
    return replace(config, tls_cert=files.server, tls_key=files.server, own_ca=files.ca)


def check_exposure(config: ServerConfig) -> None:
    """Refuse to show activations, which are as good as the text, to a network in the clear."""
    if (config.tls_cert is None) != (config.tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if config.is_loopback or config.has_tls:
        return
    if not config.allow_plain_http:
        raise click.UsageError(
            f"{config.host} is reachable from other machines: make a certificate with "
            "splitfrozen-server tls init --host NAME, give --tls-cert and --tls-key, or "
            "--allow-plain-http if the network is yours alone"
        )
    click.echo(
        f"WARNING: plain HTTP on {config.host}: anyone on this network can read tokens and "
        "activations, and activations can be turned back into the text.",
        err=True,
    )


def _run(config: ServerConfig, bundles: list[tuple[Path, str | None]]) -> None:
    from splitfrozen_server.serve import run

    try:
        run(config, bundles, lambda line: click.echo(line))
    except SplitFrozenError as error:
        raise click.ClickException(f"{error.message} [{error.code}]") from None
    except BlockingIOError:
        raise click.ClickException(f"another server is using {config.data_dir}") from None
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
            raise
        raise click.ClickException(
            f"cannot listen on {config.host}:{config.port}: {error.strerror}; try another --port"
        ) from None


for group in (
    manage.models,
    manage.bundles,
    manage.datasets,
    manage_jobs.jobs,
    manage.tokens,
    manage.devices,
    manage_tls.tls,
):
    cli.add_command(group)


def main() -> None:
    """Entry point: every expected failure ends in one line and its exit code."""
    try:
        status = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except (RefusedError, UnreachableError) as error:
        status = _complain(error, 3)
    except SplitFrozenError as error:
        status = _complain(error, 1)
    sys.exit(status)


def _complain(error: Exception, status: int) -> int:
    code = f" [{error.code}]" if isinstance(error, SplitFrozenError) else ""
    click.echo(f"Error: {error}{code}", err=True)
    return status
