"""`forget`."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from splitfrozen_edge.options import (
    confirm,
    find_state,
    format_option,
    retry_option,
    state_option,
    tell,
)


@click.command(short_help="Erase this device's data, on the server and here.")
@state_option
@click.option("--dataset", metavar="NAME|ID", help="Only of this dataset; bundles stay.")
@click.option("--local-only", is_flag=True, help="Delete here only; the server is not asked.")
@click.option("--everything", is_flag=True, help="Delete the key and the enrolment, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@retry_option(30)
@format_option
@click.pass_context
def forget(
    context: click.Context,
    *,
    state_dir: Path | None,
    dataset: str | None,
    local_only: bool,
    everything: bool,
    yes: bool,
    retry_for: float,
    form: str,
) -> None:
    """Erase what this device pushed, then what it keeps: outbox, watched files' places, bundles.

    The server erases shards and every copy of them and stops jobs that use them. Adapters that
    were trained on them are named; they stay. If the server is out of reach nothing is deleted
    here. Deleted is not overwritten: flash memory and backups may keep old copies for a while.
    """
    from splitfrozen_edge.connect import open_client
    from splitfrozen_edge.identity.forgetting import forget as erase

    if everything and dataset:
        raise click.UsageError("--everything and --dataset contradict each other")
    state = find_state(context, state_dir)
    if not local_only:
        state.enrolment()  # StateError before the question
    if not yes:
        what = f"dataset {dataset}" if dataset else "all datasets"
        where = "here" if local_only else "on the server and here"
        confirm(f"Erase what this device has of {what}, {where}?", "nothing was erased")
    connect = partial(open_client, retry_for=retry_for, stop=threading.Event(), on_wait=tell)
    found = erase(state, None if local_only else connect, dataset=dataset, everything=everything)
    click.echo(json.dumps(asdict(found)) if form == "json" else "\n".join(found.lines()))
