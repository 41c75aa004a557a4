"""`splitfrozen-server tls`: certificates of a server on a LAN. Works on files; asks no server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitfrozen_server.cli_options import data_dir_option
from splitfrozen_server.config import is_loopback
from splitfrozen_server.enrol_command import enrol_command

if TYPE_CHECKING:
    from splitfrozen_server.tls import TlsState

_PORT = 8000


@click.group()
def tls() -> None:
    """A certificate authority of your own, for a server on a LAN."""


def _hosts_option(*, required: bool) -> Callable[[Any], Any]:
    return click.option(
        "--host",
        "hosts",
        multiple=True,
        required=required,
        metavar="NAME|IP",
        help="Name or address by which devices reach the server. Repeatable.",
    )


def _format_option(command: Any) -> Any:
    choice = click.Choice(["text", "json"])
    return click.option("--format", "form", type=choice, default="text", show_default=True)(command)


@tls.command("init")
@data_dir_option
@_hosts_option(required=True)
@_format_option
def init(data_dir: Path, hosts: tuple[str, ...], form: str) -> None:
    """Make an authority (10 years) and the server's certificate (397 days).

    `serve` uses them for every --host that is not this machine alone. Devices pin the authority's
    fingerprint, so `tls renew` changes nothing for them.
    """
    from splitfrozen_server.tls import init_tls

    _show(init_tls(data_dir / "tls", hosts), form)


@tls.command("renew")
@data_dir_option
@_hosts_option(required=False)
@_format_option
def renew(data_dir: Path, hosts: tuple[str, ...], form: str) -> None:
    """Make a new certificate by the same authority, with the old names and any more.

    A running server takes it up within an hour; a restart does at once. `serve` renews by itself
    when less than 30 days are left.
    """
    from splitfrozen_server.tls import renew_tls

    _show(renew_tls(data_dir / "tls", hosts), form)


@tls.command("show")
@data_dir_option
@_format_option
def show(data_dir: Path, form: str) -> None:
    """Show the fingerprint to pin, the names, and how long the certificates last."""
    from splitfrozen_server.tls import read_tls

    _show(read_tls(data_dir / "tls"), form)


def _show(state: TlsState, form: str) -> None:
    host = next((name for name in state.hosts if not is_loopback(name)), state.hosts[0])
    server = f"https://[{host}]:{_PORT}" if ":" in host else f"https://{host}:{_PORT}"
    command = enrol_command(server, "TOKEN", state.pin)
    if form == "json":
        document = {
            "pin": state.pin,
            "hosts": state.hosts,
            "ca_until": int(state.ca_until.timestamp()),
            "server_until": int(state.server_until.timestamp()),
            "enroll": command,
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(f"pin          {state.pin}")
    click.echo(f"hosts        {', '.join(state.hosts)}")
    click.echo(f"authority    until {state.ca_until:%Y-%m-%d}")
    click.echo(f"certificate  until {state.server_until:%Y-%m-%d}")
    click.echo(
        "On the device (a TOKEN: splitfrozen-server tokens create --role enrol, which prints this "
        f"line, too):\n  {command}"
    )
