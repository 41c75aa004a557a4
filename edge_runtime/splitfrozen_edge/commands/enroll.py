"""`enroll`."""

from __future__ import annotations

import platform
from pathlib import Path

import click

from splitfrozen_edge.options import find_state, retry_option, state_option, tell, warn


@click.command(short_help="Make this device known to a server.")
@state_option
@click.option("--server", required=True, metavar="URL", help="http://HOST:PORT or https://…")
@click.option(
    "--token",
    required=True,
    envvar="SPLITFROZEN_TOKEN",
    help="Enrolment token (splitfrozen-server tokens create --role enrol).",
)
@click.option("--name", default=platform.node, show_default="host name", help="Name on the server.")
@click.option(
    "--pin",
    metavar="sha256:HEX",
    help="Fingerprint of the server's certificate or of its CA (splitfrozen-server tls show).",
)
@click.option(
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="Certificate authority of a server with its own certificate; it is copied.",
)
@click.option("--force", is_flag=True, help="Replace an enrolment.")
@retry_option(10)
@click.pass_context
def enroll(
    context: click.Context,
    *,
    state_dir: Path | None,
    server: str,
    token: str,
    name: str,
    pin: str | None,
    ca_file: Path | None,
    force: bool,
    retry_for: float,
) -> None:
    """Make this device known to a server and keep its token (mode 0600).

    A server on a LAN makes its own certificate: give the --pin that `splitfrozen-server tokens
    create` prints, and the device fetches the certificate, compares and trusts nothing else.
    """
    from splitfrozen_edge.identity.enrolling import enroll_device

    state = find_state(context, state_dir)
    found = enroll_device(
        state,
        server,
        token,
        name=name,
        ca_file=ca_file,
        pin=pin,
        replace_old=force,
        retry_for=retry_for,
        warn=warn,
        on_wait=tell,
    )
    click.echo(f"enrolled {name} as {found.device} at {server}")
