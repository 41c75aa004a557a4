"""`splitfrozen-edge queue`: what waits in the outbox, trying it again, giving it up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitfrozen_edge.options import confirm, find_state, format_option, state_option, warn
from splitfrozen_edge.state import StateError

if TYPE_CHECKING:
    from splitfrozen_edge.outbox.store import DatasetState, Outbox, Waiting

_DAY = 86400.0  # seconds


@click.group(short_help="List, retry or drop what waits in the outbox.")
def queue() -> None:
    """List, retry or drop the shards that wait in the outbox.

    A shard that the server refused for good is set aside: it is not sent again until you say
    `queue retry`, and not lost until you say `queue drop`.
    """


def _dataset_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--dataset", metavar="NAME|ID", help="As queue list shows it.")(command)


def _shard_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "One shard: the beginning of its digest, as queue list --shards shows it."
    return click.option("--shard", metavar="DIGEST", help=text)(command)


@queue.command("list", short_help="Show what waits, per dataset.")
@state_option
@_dataset_option
@click.option("--shards", is_flag=True, help="Every shard, not only those that were refused.")
@format_option
@click.pass_context
def list_queue(
    context: click.Context, *, state_dir: Path | None, dataset: str | None, shards: bool, form: str
) -> None:
    """Show the datasets for which computed rows wait, and what the server refused and why."""
    with _opened(context, state_dir) as outbox:
        known = outbox.datasets() if dataset is None else _find(outbox, dataset)
        waiting = [item for item in known if item.queued_shards or item.parked_shards]
        entries = [shard for item in waiting for shard in outbox.entries(item.id)]
    if form == "json":
        click.echo(json.dumps(_document(waiting, entries)))
        return
    for item in waiting:
        click.echo(_line(item))
        for shard in entries:
            if shard.dataset == item.id and (shards or shard.state == "refused"):
                click.echo(_shard_line(shard))
    if not waiting:
        click.echo("nothing waits")


@queue.command("retry", short_help="Send again what the server refused.")
@state_option
@_dataset_option
@_shard_option
@click.pass_context
def retry_queue(
    context: click.Context, *, state_dir: Path | None, dataset: str | None, shard: str | None
) -> None:
    """Put refused shards back into the queue, all of them or those of a dataset, or one.

    The next push, or the running service, sends them again.
    """
    state = find_state(context, state_dir)
    with state.locked(), _opened(context, state_dir) as outbox:
        shards = examples = 0
        for name, digest in _chosen(outbox, dataset, shard, parked=True):
            found = outbox.retry(name, digest=digest)
            shards, examples = shards + found[0], examples + found[1]
    click.echo(f"{_amount(shards, examples)} {_verb(examples, 'waits')} to be sent again")


@queue.command("drop", short_help="Give up what waits.")
@state_option
@_dataset_option
@_shard_option
@click.option("--refused", is_flag=True, help="Only what the server refused.")
@click.option(
    "--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="By this device's clock."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def drop_queue(
    context: click.Context,
    *,
    state_dir: Path | None,
    dataset: str | None,
    shard: str | None,
    refused: bool,
    older_than: float | None,
    yes: bool,
) -> None:
    """Give up computed rows that wait, because nobody will take or needs them.

    What the server already has stays there. A later push computes the dropped rows again.
    """
    if dataset is None and shard is None and not refused and older_than is None:
        raise click.UsageError("say what to drop: --dataset, --shard, --refused or --older-than")
    before = None if older_than is None else time.time() - older_than * _DAY
    state = find_state(context, state_dir)
    with state.locked(), _opened(context, state_dir) as outbox:
        _drop(outbox, dataset, shard, refused=refused, before=before, yes=yes)


def _drop(
    outbox: Outbox,
    dataset: str | None,
    shard: str | None,
    *,
    refused: bool,
    before: float | None,
    yes: bool,
) -> None:
    chosen = _chosen(outbox, dataset, shard, parked=refused)
    ids = {name for name, _ in chosen}
    listed = [item for item in outbox.datasets() if item.id in ids or None in ids]
    if not any(item.parked_shards or (item.queued_shards and not refused) for item in listed):
        click.echo("nothing waits")
        return
    for item in listed:
        if item.queued_shards or item.parked_shards:
            click.echo(_line(item))
    if not yes:
        what = "these" if shard is None and not refused and before is None else "what was chosen"
        confirm(f"Drop {what}?", "nothing was dropped")
    names = {item.id: f"{item.name} ({item.id})" for item in outbox.datasets()}
    for name, digest in chosen:
        found = outbox.drop(name, digest=digest, parked=refused, before=before)
        of = f" of {names.get(name, name)}" if name else ""
        click.echo(f"dropped {_amount(*found)}{of}")


def _chosen(
    outbox: Outbox, dataset: str | None, shard: str | None, *, parked: bool
) -> list[tuple[str | None, str | None]]:
    """(dataset id or None for all, digest or None for all) of what a command is about."""
    found = [None] if dataset is None else [item.id for item in _find(outbox, dataset)]
    if shard is None:
        return [(name, None) for name in found]
    digests = [
        (entry.dataset, entry.digest)
        for entry in outbox.entries()
        if entry.digest.startswith(shard.lower())
        and (None in found or entry.dataset in found)
        and (entry.state == "refused" or not parked)
    ]
    if len(digests) != 1:
        number = "no waiting shard's digest begins" if not digests else "several digests begin"
        raise StateError(f"{number} with {shard}; see splitfrozen-edge queue list --shards")
    return [*digests]


def _find(outbox: Outbox, dataset: str) -> list[DatasetState]:
    # A name may stand for several: one that was deleted on the server and made again.
    found = [item for item in outbox.datasets() if dataset in (item.id, item.name)]
    if not found:
        raise StateError(f"no dataset {dataset} is known here; see splitfrozen-edge queue list")
    return found


class _opened:
    """The outbox for the time of a command; tells what had to be repaired."""

    def __init__(self, context: click.Context, own: Path | None) -> None:
        self._outbox = find_state(context, own).outbox()
        if self._outbox.notice:
            warn(self._outbox.notice)

    def __enter__(self) -> Outbox:
        return self._outbox

    def __exit__(self, *problem: object) -> None:
        self._outbox.close()


def _line(item: DatasetState) -> str:
    size = f"{item.queued_bytes / 1e6:.1f} MB"
    examples, shards = item.queued_examples, _count(item.queued_shards, "shard")
    wait = _verb(examples, "waits")
    waiting = f"{_count(examples, 'example')} {wait} in {shards} ({size})"
    if item.parked_shards:
        parked = _count(item.parked_shards, "shard")
        was = "was" if item.parked_examples == 1 else "were"
        waiting += f"; {item.parked_examples} in {parked} {was} refused"
    return f"{item.name} ({item.id}): {waiting}"


def _amount(shards: int, examples: int) -> str:
    return f"{_count(examples, 'example')} in {_count(shards, 'shard')}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _verb(number: int, singular: str) -> str:
    return singular if number == 1 else singular.removesuffix("s")


def _shard_line(shard: Waiting) -> str:
    days = max(0.0, time.time() - shard.created_at) / _DAY
    examples = _count(shard.examples, "example")
    what = f"  {shard.digest[:12]}  {examples}, {days:.1f} days old"
    return what if shard.code is None else f"{what}: {shard.message} [{shard.code}]"


def _document(waiting: list[DatasetState], entries: list[Waiting]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "datasets": [asdict(item) for item in waiting],
        "shards": [asdict(shard) for shard in entries],
    }
