"""`watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from splitfrozen_edge.commands.feed import feed_options, take_feed, work
from splitfrozen_edge.commands.policy_flags import policy_options, take_policy
from splitfrozen_edge.options import (
    find_state,
    memory_option,
    model_options,
    outbox_option,
    state_option,
)


@click.command(short_help="Feed a dataset from a folder or a growing file.")
@state_option
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, metavar="NAME|ID", help="Where the rows go.")
@feed_options
@model_options
@memory_option
@outbox_option
@policy_options
@click.pass_context
def watch(
    context: click.Context,
    /,
    *,
    state_dir: Path | None,
    path: Path,
    dataset: str,
    outbox_bytes: int,
    **rest: Any,
) -> None:
    """Follow a folder or one growing file and send every new row once, until interrupted.

    \b
    .jsonl, .ndjson   line by line; a half-written last line waits
    .csv, .tsv        as a whole, when the file has come to rest; again when it changes
    .txt              with --texts: one row of text each

    Rotation (rename or copy and truncate), replaced and deleted files are understood. A bad line
    is left out and shown by status; it stops nothing. Equal lines of one file are different
    examples; the same line in two files is one. To feed several datasets, or from the start of
    the machine on: join and run.
    """
    from splitfrozen_edge.daemon.joined import now_joined
    from splitfrozen_edge.daemon.settings import FixedSettings

    options = take_feed(rest)
    policy = take_policy(rest)
    state = find_state(context, state_dir)
    joined = now_joined(dataset, path, options)
    work("watch", state, FixedSettings(joined, policy), policy, outbox_bytes)
