"""`token`: the device's bearer token."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import click

from splitfrozen_edge.options import find_state, retry_option, state_option, tell


@click.group(short_help="Rotate this device's token.")
def token() -> None:
    """The token by which the server knows this device (in device.json, mode 0600)."""


@token.command(short_help="Replace the token by a new one.")
@state_option
@retry_option(60)
@click.pass_context
def rotate(context: click.Context, *, state_dir: Path | None, retry_for: float) -> None:
    """Replace this device's token by a new one; the old one ends when the new one is first used.

    A daemon that runs meanwhile takes the new one up. After any failure the stored token works.
    """
    from splitfrozen_edge.connect import open_client
    from splitfrozen_edge.identity.rotation import rotate_token

    state = find_state(context, state_dir)
    state.enrolment()  # StateError before anything else
    connect = partial(open_client, retry_for=retry_for, stop=threading.Event(), on_wait=tell)
    enrolment = rotate_token(state, connect)
    click.echo(f"the token of {enrolment.device} at {enrolment.server} is replaced")
