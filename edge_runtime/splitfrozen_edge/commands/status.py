"""`status`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from splitfrozen_edge.options import find_state, format_option, state_option


@click.command(short_help="Show device, outbox and bundles.")
@state_option
@format_option
@click.pass_context
def status(context: click.Context, *, state_dir: Path | None, form: str) -> None:
    """Show who this device is, what waits in the outbox and which bundles are here."""
    from splitfrozen_edge.status import read_status, status_lines

    found = read_status(find_state(context, state_dir))
    click.echo(json.dumps(found) if form == "json" else "\n".join(status_lines(found)))
