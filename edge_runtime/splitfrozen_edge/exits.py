"""Errors -> exit codes and words. The codes are part of the command line's contract."""

from __future__ import annotations

import sqlite3
import sys
from typing import Any, NoReturn

import click

from splitfrozen.errors import DataError, RefusedError, SplitFrozenError
from splitfrozen_edge.outbox.words import describe_database
from splitfrozen_edge.state import BusyError, StateError

FAILED = 1
USAGE = 2
REFUSED = 3
INTERRUPTED = 130

_AFTER_INTERRUPTION = {
    "push": "; the same command continues",
    "predict": "; the same command continues",
    "watch": "; the same command goes on",
    "run": "; the same command goes on",
    "forget": "; the same command finishes it",
    "token": "; the stored token works",
}

EXIT_CODES = """\b
Exit codes:
  0    done
  1    the work failed (a broken bundle, a full disk, activations that are not finite)
  2    wrong usage or bad input: flags, a data file, a device that is not enrolled
  3    the server refused or cannot be reached; what was computed waits in the outbox
  130  interrupted
"""


def describe(error: BaseException) -> tuple[int, str] | None:
    """(exit code, message) of an error that is the user's to hear; None for a bug."""
    if isinstance(error, RefusedError):
        return REFUSED, f"{error.message} [{error.code}]"
    if isinstance(error, BusyError):
        return FAILED, str(error)  # not USAGE, which tells systemd not to try again
    if isinstance(error, DataError | StateError):
        return USAGE, str(error)
    if isinstance(error, SplitFrozenError):
        return FAILED, f"{error.message} [{error.code}]"
    if isinstance(error, sqlite3.Error):
        return FAILED, describe_database(error)
    if isinstance(error, OSError):
        return FAILED, str(error)
    return None


class Interrupted(click.exceptions.Abort):
    """Ctrl-C; knows in which command."""

    def __init__(self, command: str | None) -> None:
        super().__init__()
        self.command = command

    def words(self) -> str:
        """What the interruption means for that command."""
        return f"interrupted{_AFTER_INTERRUPTION.get(self.command or '', '')}"


class Program(click.Group):
    """A command group whose errors become exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the context names."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Abort, KeyboardInterrupt) as error:
            raise Interrupted(ctx.invoked_subcommand) from error

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and exit, or return with `standalone_mode=False`."""
        if not extra.get("standalone_mode", True):
            return super().main(*args, **extra)
        extra["standalone_mode"] = False
        try:
            result = super().main(*args, **extra)
        except Interrupted as error:
            leave(INTERRUPTED, error.words())
        except (click.exceptions.Abort, KeyboardInterrupt):
            leave(INTERRUPTED, "interrupted")
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except Exception as error:
            found = describe(error)
            if found is None:
                raise
            leave(*found)
        sys.exit(result if isinstance(result, int) else 0)


def leave(code: int, message: str) -> NoReturn:
    """Print an error and exit."""
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)
