"""`splitfrozen-edge queue`: what waits in the outbox, and giving it up."""

from __future__ import annotations

from pathlib import Path

import click

from splitfrozen_edge.options import find_state, state_option
from splitfrozen_edge.outbox.store import DatasetState, Outbox
from splitfrozen_edge.state import StateError


@click.group(short_help="List or drop what waits in the outbox.")
def queue() -> None:
    """List or drop the shards that wait in the outbox."""


@queue.command("list", short_help="Show what waits, per dataset.")
@state_option
@click.pass_context
def list_queue(context: click.Context, *, state_dir: Path | None) -> None:
    """Show the datasets for which computed rows wait to be sent."""
    outbox = find_state(context, state_dir).outbox()
    try:
        waiting = [item for item in outbox.datasets() if item.queued_shards]
    finally:
        outbox.close()
    for item in waiting:
        click.echo(_line(item))
    if not waiting:
        click.echo("nothing waits")


@queue.command("drop", short_help="Give up what waits for a dataset.")
@state_option
@click.option("--dataset", required=True, metavar="NAME|ID", help="As queue list shows it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def drop_queue(context: click.Context, *, state_dir: Path | None, dataset: str, yes: bool) -> None:
    """Give up the computed rows that wait for a dataset, because the server will not take them.

    What the server already has stays there. A later push computes the dropped rows again.
    """
    state = find_state(context, state_dir)
    with state.locked():
        outbox = state.outbox()
        try:
            _drop(outbox, dataset, yes=yes)
        finally:
            outbox.close()


def _drop(outbox: Outbox, dataset: str, *, yes: bool) -> None:
    # A name may stand for several: one that was deleted on the server and made again.
    found = [item for item in outbox.datasets() if dataset in (item.id, item.name)]
    if not found:
        raise StateError(f"no dataset {dataset} is known here; see splitfrozen-edge queue list")
    for item in found:
        click.echo(_line(item))
    if not yes:
        click.confirm("Drop these?", abort=True)
    for item in found:
        shards, examples = outbox.drop(item.id)
        click.echo(f"dropped {examples} examples in {shards} shards of {item.name} ({item.id})")


def _line(item: DatasetState) -> str:
    size = f"{item.queued_bytes / 1e6:.1f} MB"
    waiting = f"{item.queued_examples} examples wait in {item.queued_shards} shards ({size})"
    return f"{item.name} ({item.id}): {waiting}"
