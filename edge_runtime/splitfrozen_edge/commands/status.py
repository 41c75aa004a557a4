"""`status`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from splitfrozen_edge.options import find_state, format_option, state_option


@click.command(short_help="Show device, daemon, datasets, watched files and bundles.")
@state_option
@format_option
@click.pass_context
def status(context: click.Context, *, state_dir: Path | None, form: str) -> None:
    """Show who this device is, what the daemon does or why it waits, and what is queued.

    Asks nobody on the network: how the server is, the daemon found out.
    """
    from splitfrozen_edge.status import read_status
    from splitfrozen_edge.status_text import status_lines

    found = read_status(find_state(context, state_dir))
    click.echo(json.dumps(found) if form == "json" else "\n".join(status_lines(found, time.time())))
