"""What `watch`, `run` and `join` share: the flags of a fed path, and running the daemon."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from splitfrozen_edge.connect import open_client
from splitfrozen_edge.options import warn

if TYPE_CHECKING:
    from splitfrozen_edge.daemon.joined import FeedOptions
    from splitfrozen_edge.daemon.settings import Settings
    from splitfrozen_edge.policy.rules import Policy
    from splitfrozen_edge.state import StateDirectory


def feed_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How rows of a path are pushed, beside the flags of the model."""
    options = (
        click.option(
            "--task",
            type=click.Choice(["classification", "causal_lm"]),
            help="To make the dataset if it does not exist; needs --bundle too.",
        ),
        click.option("--labels", metavar="NAME,…", help="Names of the labels 0, 1, … of the rows."),
        click.option("--strict", is_flag=True, help="Leave out rows that are too long."),
        click.option("--texts", is_flag=True, help="Read .txt files too: one row of text each."),
        click.option(
            "--max-wait",
            type=click.FloatRange(min=0),
            default=10,
            show_default=True,
            metavar="SECONDS",
            help="How long a few new rows wait for more, to be sent together.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def take_feed(values: dict[str, Any]) -> FeedOptions:
    """Take the flags of a fed path out of a command's values."""
    from splitfrozen_edge.daemon.joined import FeedOptions
    from splitfrozen_edge.data.shapes import parse_fields

    labels = values.pop("labels")
    return FeedOptions(
        fields=parse_fields(values.pop("fields")),
        labels=tuple(name.strip() for name in labels.split(",")) if labels else (),
        **{
            name: values.pop(name)
            for name in (
                "bundle",
                "task",
                "wire",
                "strict",
                "threads",
                "memory",
                "texts",
                "max_wait",
            )
        },
    )


def work(
    purpose: str,
    state: StateDirectory,
    settings: Settings,
    policy: Policy,
    outbox_bytes: int,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Run the daemon in this process until a signal ends it; SIGHUP takes the settings afresh.

    `purpose`: the command, for those whom it keeps out. Raises KeyboardInterrupt for SIGINT, so
    that the exit code says so.
    """
    from splitfrozen_edge.daemon.notify import Notifier
    from splitfrozen_edge.daemon.service import Service
    from splitfrozen_edge.policy.gate import PolicyGate
    from splitfrozen_edge.policy.readings import Readers
    from splitfrozen_edge.watching.opening import open_ledger

    stop, halt = threading.Event(), threading.Event()
    readers = Readers(metered_interfaces=policy.metered_interfaces)
    gate = PolicyGate(policy, readers, halt)
    enrolment = state.enrolment()
    with state.locked(purpose):
        outbox, ledger = state.outbox(), open_ledger(state.path, warn)
        client = open_client(enrolment, 0, stop)
        try:
            if outbox.notice:
                warn(outbox.notice)
            service = Service(
                state,
                outbox,
                ledger,
                client,
                gate,
                stop=stop,
                halt=halt,
                settings=settings,
                outbox_bytes=outbox_bytes,
                notifier=Notifier.of(environment),
                say=lambda message: click.echo(message, err=True),
            )
            interrupted = _take_signals(stop, service.reload)
            service.run()
        finally:
            client.close()
            ledger.close()
            outbox.close()
    if interrupted.is_set():
        raise KeyboardInterrupt


def _take_signals(stop: threading.Event, reload: threading.Event) -> threading.Event:
    interrupted = threading.Event()

    def end(number: int, frame: object) -> None:
        if number == signal.SIGINT:
            interrupted.set()
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda number, frame: reload.set())
    return interrupted
