"""`chat`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from splitfrozen_edge.commands.generation import (
    Ask,
    ended_line,
    generation_options,
    open_generation,
)
from splitfrozen_edge.options import find_state, state_option, warn

if TYPE_CHECKING:
    from splitfrozen_edge.inference.chat import Conversation

_HELP = "/clear starts over, /quit or Ctrl-D ends; Ctrl-C ends an answer."


@click.command(short_help="Talk to a model together with the server.")
@state_option
@click.option("--system", metavar="TEXT", help="What the model is told before the first turn.")
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Tokens of an answer, at most.",
)
@generation_options
@click.pass_context
def chat(
    context: click.Context,
    /,
    *,
    state_dir: Path | None,
    system: str | None,
    max_tokens: int,
    **rest: Any,
) -> None:
    """Talk to a model, by its chat template: the first blocks run here, the rest on the server.
    Both sides keep what they have computed, so a turn costs its own tokens only. A model without a
    chat template continues what you type, each turn on a new line.

    One line is one turn; lines of a file or a pipe, too. /clear starts over, /quit or Ctrl-D ends,
    Ctrl-C ends an answer.

    No token that you type leaves this device, its activations do: whoever runs the server can
    reconstruct the text from them. The server draws the tokens of the answers.
    """
    from splitfrozen_edge.inference.chat import Conversation

    halt = threading.Event()
    state = find_state(context, state_dir)
    with open_generation(Ask(**rest), state, halt) as (text, writer):
        conversation = Conversation(
            text, writer, system=system, max_tokens=max_tokens, halted=halt.is_set
        )
        text.open()  # a refusal comes before the first question
        if sys.stdin.isatty():
            click.echo(_HELP, err=True)
        for question in _questions():
            if question == "/clear":
                conversation.restart()
            elif _is_command(question):
                click.echo(f"there is no {question.split()[0]}: {_HELP}", err=True)
            else:
                with _halting(halt):
                    _answer(conversation, question)


def _questions() -> Iterator[str]:
    """Lines that are typed, until the end or /quit; empty ones are passed over."""
    typed = sys.stdin.isatty()
    if typed:
        with suppress(ImportError):
            import readline  # noqa: F401 - makes input() edit its line and remember others
    while (line := _line(typed=typed)) is not None:
        question = line.strip()
        if question == "/quit":
            return
        if question:
            yield question


def _is_command(question: str) -> bool:
    """Whether it begins like /clear; /etc/hosts does not."""
    first = question.split()[0]
    return first.startswith("/") and first[1:].isalpha()


def _line(*, typed: bool) -> str | None:
    if not typed:
        return sys.stdin.readline() or None
    try:
        return input("> ")
    except EOFError:
        click.echo()
        return None
    except KeyboardInterrupt:
        click.echo("\n/quit or Ctrl-D leaves", err=True)
        return ""


def _answer(conversation: Conversation, question: str) -> None:
    from splitfrozen.errors import DataError, RefusedError
    from splitfrozen_edge.pushing.stopping import Stopped

    try:
        with ended_line() as shown:
            for piece in conversation.ask(question):
                shown(piece)
    except DataError as error:  # no room, or a template that does not like the turn
        warn(f"{error}. /clear starts over")
    except RefusedError as error:
        if not sys.stdin.isatty():
            raise
        warn(f"{error.message} [{error.code}]. What was said before is kept: ask again")
    except Stopped:  # Ctrl-C while it waited for a server that is away
        pass


@contextmanager
def _halting(halt: threading.Event) -> Iterator[None]:
    """The first Ctrl-C ends an answer between two tokens; a second one ends the program."""

    def first(number: int, frame: FrameType | None) -> None:
        halt.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        halt.clear()
