"""`join` and `leave`: which datasets `run` feeds."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import click

from splitfrozen_edge.commands.feed import feed_options, take_feed
from splitfrozen_edge.connect import open_client
from splitfrozen_edge.options import (
    find_state,
    memory_option,
    model_options,
    state_option,
    tell,
    warn,
)
from splitfrozen_edge.state import StateDirectory


@click.command(short_help="Feed a dataset from a path whenever run is running.")
@state_option
@click.argument("dataset", metavar="DATASET")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder or growing file; it may come later.",
)
@feed_options
@model_options
@memory_option
@click.pass_context
def join(
    context: click.Context,
    /,
    *,
    state_dir: Path | None,
    dataset: str,
    data: Path,
    **rest: Any,
) -> None:
    """Let run feed DATASET (name or id) from a folder or a growing file.

    Joined again, a dataset gets the new path and flags. A daemon that runs notices soon.
    """
    from splitfrozen_edge.daemon.joined import join as store
    from splitfrozen_edge.daemon.joined import now_joined

    state = find_state(context, state_dir)
    options = take_feed(rest)
    state.enrolment()
    if not (options.bundle and options.task):
        _check_exists(state, dataset)
    again = store(state.path, now_joined(dataset, data, options))
    told = "joined again" if again else "joined"
    click.echo(f"{told} {dataset}: rows come from {data.absolute()}")


@click.command(short_help="Feed a dataset no more.")
@state_option
@click.argument("dataset", metavar="DATASET")
@click.option(
    "--forget-progress",
    is_flag=True,
    help="Joined again, all files are read from their start; what is known is not sent twice.",
)
@click.pass_context
def leave(
    context: click.Context, *, state_dir: Path | None, dataset: str, forget_progress: bool
) -> None:
    """Let run feed DATASET no more. What waits in the outbox is still sent."""
    from splitfrozen_edge.daemon.joined import leave as remove
    from splitfrozen_edge.watching.opening import open_ledger

    state = find_state(context, state_dir)
    if not forget_progress:
        remove(state.path, dataset)
    else:
        with state.locked("leave"):
            remove(state.path, dataset)
            ledger = open_ledger(state.path, warn)
            try:
                known = ledger.recall(dataset)
                ledger.forget(str(known["id"]) if known else dataset)
            finally:
                ledger.close()
    click.echo(f"left {dataset}")


def _check_exists(state: StateDirectory, dataset: str) -> None:
    """Refuse a wrong name now, not in the daemon's log; a server that is away is no reason."""
    from splitfrozen.errors import RefusedError
    from splitfrozen_edge.state import StateError

    client = open_client(state.enrolment(), 5, threading.Event(), on_wait=tell)
    try:
        found = client.dataset(dataset)
    except RefusedError as error:
        if not error.retryable:
            raise
        warn(f"not checked whether {dataset} exists: {error.message}")
        return
    finally:
        client.close()
    if found is None:
        raise StateError(
            f"there is no dataset {dataset}; to let it be made, say --bundle and --task"
        )
