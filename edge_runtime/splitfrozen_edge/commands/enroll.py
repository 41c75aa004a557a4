"""`enroll`."""

from __future__ import annotations

import ipaddress
import platform
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import click

from splitfrozen_edge.connect import open_client
from splitfrozen_edge.options import find_state, retry_option, state_option, warn
from splitfrozen_edge.state import Enrolment, StateDirectory, StateError


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
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="Certificate authority of a server with its own certificate.",
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
    ca_file: Path | None,
    force: bool,
    retry_for: float,
) -> None:
    """Make this device known to a server and keep its token (mode 0600)."""
    state = find_state(context, state_dir)
    _check_server(state, server, force=force)
    who = Enrolment(server, "", name, token, str(ca_file) if ca_file else None)
    client = open_client(who, retry_for, threading.Event())
    profile = {"machine": platform.machine(), "system": platform.system()}
    try:
        device = client.enroll(name, profile)
    finally:
        client.close()
    state.store_enrolment(replace(who, device=str(device["id"]), token=str(device["token"])))
    click.echo(f"enrolled {name} as {device['id']} at {server}")


def _check_server(state: StateDirectory, server: str, *, force: bool) -> None:
    if not server.startswith(("http://", "https://")):
        raise StateError(f"--server {server}: needs http:// or https://")
    if server.startswith("http://") and not _is_loopback(server):
        warn("plain http: anyone on the way can read the token and the data; use https")
    if state.is_enrolled() and not force:
        old = state.enrolment()
        raise StateError(f"already enrolled as {old.name} at {old.server}; --force replaces that")


def _is_loopback(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
