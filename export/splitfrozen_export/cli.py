"""splitfrozen-export: cut a model and write the bundle that devices run.

Exit codes: 0 ok, 1 the export failed (a proof or a comparison), 2 wrong usage or a model, file or
flag that cannot be used, 130 interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitfrozen.errors import SplitFrozenError

if TYPE_CHECKING:
    from splitfrozen_export.export import OnStep

FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130
_FAILURES = ("check_failed", "internal_error", "insufficient_storage")

_HELP = """Cut a model after its first blocks and write the bundle that devices run.

The bundle is a directory: the first CUT blocks as an ONNX graph with its weights, the tokenizer,
and splitfrozen.json. The export proves that device and server together equal the whole model,
compares the graph with torch, and writes nothing when either fails.

\b
Examples:
  splitfrozen-export --model gpt2 --cut 4 --output bundles/gpt2-cut4
  splitfrozen-export --model ./my-model --cut 3 --precision fp32 --output bundles/mine

HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean to Transformers.

\b
Exit codes: 0 written, 1 a proof or comparison failed, 2 wrong usage or a model that cannot be
used, 130 interrupted.
"""


@click.command(help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", required=True, metavar="MODEL", help="Hub id or directory of a model.")
@click.option(
    "--cut", required=True, type=click.IntRange(min=1), help="Blocks that run on the device."
)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of the bundle; it must not exist yet.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="int8",
    show_default=True,
    help="Arithmetic on the device. int8: one scale per token, a quarter of the size.",
)
@click.option(
    "--wire",
    type=click.Choice(["fp32", "bf16", "int8"]),
    default="int8",
    show_default=True,
    help="How activations travel. int8: one scale per 64 channels.",
)
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option(
    "--trust-remote-code", is_flag=True, help="Run modelling code that comes with the model."
)
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    help="Tokens of an example at most.  [default: 512, or what the model has]",
)
@click.option(
    "--max-error",
    type=click.FloatRange(min=0),
    help="Relative error of the activations that is accepted.  [default: fp32 1e-4, int8 0.08]",
)
@click.option(
    "--opset",
    type=click.IntRange(min=18),
    help="ONNX operator set.  [default: 23, else 20; 23 needs ONNX Runtime 1.24 on the device]",
)
@click.option(
    "--prove",
    type=click.Choice(["auto", "full", "twin"]),
    default="auto",
    show_default=True,
    help="Prove the cut on a random twin only, on the full weights too, or (auto) if they fit.",
)
@click.option(
    "--eval-text",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Compare graph and torch on these texts, one a line.  [default: built-in sentences]",
)
@click.option("--force", is_flag=True, help="Replace a bundle that is already there.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Summary for a person, or one JSON object.",
)
@click.version_option(package_name="splitfrozen")
def export_command(output_format: str, **options: Any) -> None:
    from splitfrozen_export.export import export_bundle
    from splitfrozen_export.request import Request
    from splitfrozen_export.summary import summary_json, summary_lines

    _silence_transformers()
    with _progress() as on_step:
        result = export_bundle(Request(**options), on_step)
    if output_format == "json":
        click.echo(json.dumps(summary_json(result)))
    else:
        click.echo("\n".join(summary_lines(result)))


def main() -> None:
    """Entry point: run the command and leave with a documented exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = export_command.main(standalone_mode=False)
    except SplitFrozenError as error:
        click.echo(f"Error: {error.message}", err=True)
        code = FAILED if error.code in _FAILURES else UNUSABLE
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted; no bundle was written.", err=True)
        code = INTERRUPTED
    except OSError as error:
        click.echo(f"Error: {error}", err=True)
        code = FAILED
    sys.exit(code)


@contextmanager
def _progress() -> Iterator[OnStep]:
    """Show on standard error which step runs, for how long, and how many are left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    from splitfrozen_export.export import STEPS

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:36}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("Starting", total=len(STEPS))

        def on_step(step: str) -> None:
            progress.update(task, description=step, completed=STEPS.index(step))
            if not shown:
                console.print(f"{step} …")

        yield on_step


def _silence_transformers() -> None:
    """Its bars and notes are about single files; ours say which step of the export runs."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
