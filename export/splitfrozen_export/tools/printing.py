"""What the commands of splitfrozen-bundle share: their argument, --format, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

OK, WRONG, UNUSABLE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 130
BUNDLE = click.Path(exists=True, file_okay=False, path_type=Path)

F = TypeVar("F", bound=Callable[..., Any])


def format_option(command: F) -> F:
    """--format, as every command has it."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Lines for a person, or one JSON object.",
    )(command)


def print_result(
    output_format: str, document: Callable[[], Any], lines: Callable[[], list[str]]
) -> None:
    """Print one of the two."""
    text = json.dumps(document(), ensure_ascii=False) if output_format == "json" else None
    click.echo("\n".join(lines()) if text is None else text)
