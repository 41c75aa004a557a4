"""`splitfrozen-edge service`: running under systemd."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from splitfrozen_edge.options import warn

_STATE = "/var/lib/splitfrozen-edge"


@click.group(short_help="Run as a systemd service.")
def service() -> None:
    """Run as a systemd service (docs/raspberry-pi.md)."""


@service.command("print", short_help="Print the systemd unit for this installation.")
@click.option("--user", default="splitfrozen", show_default=True, help="Who the service runs as.")
@click.option(
    "--state-dir",
    default=_STATE,
    show_default=True,
    metavar="DIRECTORY",
    help="The service's own state directory, below /var/lib.",
)
def print_unit(*, user: str, state_dir: str) -> None:
    """Print the hardened unit that runs `splitfrozen-edge run` of this installation.

    \b
    splitfrozen-edge service print | sudo tee /etc/systemd/system/splitfrozen-edge.service
    sudo systemctl daemon-reload
    sudo systemctl enable --now splitfrozen-edge
    """
    from splitfrozen_edge.systemd.unit import fill_unit, read_unit

    program = Path(sys.executable).with_name("splitfrozen-edge")
    if not program.is_file():
        warn(f"{program} does not exist: correct ExecStart, or install into an environment")
    try:
        text = fill_unit(read_unit(), program=str(program), user=user, state=state_dir)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(text, nl=False)
