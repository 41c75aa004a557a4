"""Flags that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from splitfrozen_edge.state import StateDirectory

DEFAULT_STATE = "~/.splitfrozen/edge"


def state_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--state-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="SPLITFROZEN_EDGE_HOME",
        help=f"Where this device keeps its token, outbox and bundles  [default: {DEFAULT_STATE}]",
    )(command)


def find_state(context: click.Context, own: Path | None) -> StateDirectory:
    """The command's --state-dir, or the group's, or the default."""
    return StateDirectory((own or context.obj or Path(DEFAULT_STATE)).expanduser())


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--format",
        "form",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="text for people, one JSON object for programs.",
    )(command)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What push and predict share; shown in this order."""
    options = (
        click.option("--bundle", metavar="DIR|ID", help="Bundle; if omitted, the server says."),
        click.option(
            "--fields",
            multiple=True,
            metavar="FIELD=COLUMN,…",
            help="Columns of an unusual file: text=review,label=stars or prompt=q,completion=a.",
        ),
        click.option("--wire", type=click.Choice(["fp32", "bf16", "int8"]), help="Wire codec."),
        click.option("--threads", type=click.IntRange(1, 64), help="Threads of the model."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def memory_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--memory of what opens a model."""
    return click.option(
        "--memory",
        type=click.Choice(["auto", "normal", "low"]),
        default="auto",
        show_default=True,
        help="low: map prepacked weights from a file of this device.",
    )(command)


def retry_option(default: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--retry-for with a command's own default, in seconds."""
    return click.option(
        "--retry-for",
        type=click.FloatRange(min=0),
        default=default,
        show_default=f"{default:g}",
        metavar="SECONDS",
        help="How long to wait for a server that is away.",
    )


def outbox_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--outbox-bytes, for what computes ahead of the network."""
    return click.option(
        "--outbox-bytes",
        type=click.IntRange(min=1),
        default=512 * 1024 * 1024,
        show_default=True,
        metavar="BYTES",
        help="What may wait on disk while the server is away; at most half of the free disk.",
    )(command)


def confirm(question: str, refused: str) -> None:
    """Ask on standard error; without a yes the command ends with `refused` and exit code 1."""
    try:
        agreed = click.confirm(question, err=True)
    except click.exceptions.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise
        click.echo(err=True)
        raise click.ClickException(f"{refused}: nobody answered (--yes does not ask)") from None
    if not agreed:
        raise click.ClickException(refused)


def tell(message: str) -> None:
    """Say how things stand; standard output stays for results."""
    click.echo(message, err=True)


def warn(message: str) -> None:
    """Tell the user without stopping; standard output stays for results."""
    click.echo(f"Warning: {message}", err=True)
