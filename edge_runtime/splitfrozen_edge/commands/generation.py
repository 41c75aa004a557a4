"""What `generate` and `chat` share: flags, opening both halves, text onto a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unicodedata import category

import click

from splitfrozen_edge.connect import open_client
from splitfrozen_edge.options import memory_option, retry_option, tell
from splitfrozen_edge.state import StateDirectory

if TYPE_CHECKING:
    from splitfrozen_edge.inference.split_text import SplitText
    from splitfrozen_edge.inference.texts import Writer


@dataclass(frozen=True)
class Ask:
    """The flags of `generation_options`."""

    model: str
    bundle: str | None
    wire: str | None
    threads: int | None
    memory: str
    retry_for: float  # seconds
    temperature: float
    top_p: float
    seed: int | None
    logprobs: int = 0


def generation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Flags of both commands; they arrive as the fields of `Ask`."""
    options = (
        click.option(
            "--model", required=True, metavar="NAME", help="ft:… of a job, or a base model."
        ),
        click.option(
            "--temperature",
            type=click.FloatRange(0, 2),
            default=1.0,
            show_default=True,
            help="How freely tokens are drawn; 0: always the likeliest.",
        ),
        click.option(
            "--top-p",
            type=click.FloatRange(0, 1, min_open=True),
            default=1.0,
            show_default=True,
            help="Draw among the likeliest tokens that have so much probability together.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**53 - 1),
            help="Same seed, same text; if omitted, the server draws one.",
        ),
        click.option("--bundle", metavar="DIR|ID", help="Bundle; if omitted, the server says."),
        click.option("--wire", type=click.Choice(["fp32", "bf16", "int8"]), help="Wire codec."),
        click.option("--threads", type=click.IntRange(1, 64), help="Threads of the model."),
        memory_option,
        retry_option(120),
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def open_generation(
    ask: Ask, state: StateDirectory, stop: threading.Event
) -> Iterator[tuple[SplitText, Writer]]:
    """An empty text and what writes its tokens; the server's session is deleted in the end."""
    from splitfrozen.graph import DEVICE_WITH_PAST
    from splitfrozen_edge.inference.choose import choose_generation_bundle
    from splitfrozen_edge.inference.note import GENERATION_NOTE, is_due
    from splitfrozen_edge.inference.sessions import SessionRequest
    from splitfrozen_edge.inference.texts import Writer, open_text
    from splitfrozen_edge.model.bundles import BundleStore
    from splitfrozen_edge.model.cached_session import CachedSession
    from splitfrozen_edge.model.opening import open_graph

    client = open_client(state.enrolment(), ask.retry_for, stop, on_wait=tell)
    try:
        outbox = state.outbox()
        try:
            store = BundleStore(state, outbox, client)
            bundle = choose_generation_bundle(ask.bundle, ask.model, store, client)
        finally:
            outbox.close()
        codec = ask.wire or bundle.manifest.wire
        if is_due(state, interactive=sys.stderr.isatty()):
            click.echo(f"Note: {GENERATION_NOTE}", err=True)
        graph = open_graph(
            bundle, DEVICE_WITH_PAST, state.path, threads=ask.threads, memory=ask.memory
        )
        session = CachedSession(bundle, wire=codec, graph=graph)
        request = SessionRequest(
            ask.model, bundle.id, ask.temperature, ask.top_p, ask.seed, ask.logprobs
        )
        with open_text(bundle, client, request, wire=codec, session=session) as text:
            yield text, Writer(bundle)
    finally:
        client.close()


def without_controls(piece: str) -> str:
    """A piece as a terminal may have it: the server must not steer the terminal."""
    return "".join(c for c in piece if c in "\n\t" or category(c) != "Cc")


@contextmanager
def ended_line() -> Iterator[Callable[[str], None]]:
    """What prints pieces of a text as they come; in the end the line break, if there were any."""
    printed = False
    terminal = sys.stdout.isatty()

    def show(piece: str) -> None:
        nonlocal printed
        printed = True
        click.echo(without_controls(piece) if terminal else piece, nl=False)
        sys.stdout.flush()

    try:
        yield show
    finally:
        if printed:
            click.echo()
