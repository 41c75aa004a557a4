"""splitfrozen-bundle: what to do with a bundle once it is exported.

Exit codes: 0 ok, 1 something is wrong with the bundle (or `diff`: they differ), 2 wrong usage,
3 the server refused or does not answer, 130 interrupted.
"""

from __future__ import annotations

import signal
import sys

import click

from splitfrozen.errors import RefusedError, SplitFrozenError
from splitfrozen_export.tools.commands.bench import bench
from splitfrozen_export.tools.commands.diff import diff
from splitfrozen_export.tools.commands.inspect import inspect
from splitfrozen_export.tools.commands.publish import publish
from splitfrozen_export.tools.commands.verify import verify
from splitfrozen_export.tools.printing import INTERRUPTED, REFUSED, UNUSABLE, WRONG

_WRONG = (
    "check_failed",
    "hash_mismatch",
    "missing_file",
    "bad_manifest",
    "bad_path",
    "unsupported_format",
    "bad_signature",
    "internal_error",
)
_HELP = """Look into bundles, check them, time them, publish them.

\b
Examples:
  splitfrozen-bundle inspect bundles/gpt2-cut4
  splitfrozen-bundle verify bundles/gpt2-cut4 --model gpt2
  splitfrozen-bundle bench bundles/gpt2-cut4 --format json
  splitfrozen-bundle publish bundles/gpt2-cut4 --server https://server.example:8000
  splitfrozen-bundle diff bundles/gpt2-cut4 bundles/gpt2-cut4-int4

\b
Exit codes: 0 ok, 1 something is wrong with the bundle or two differ, 2 wrong usage,
3 the server refused or does not answer, 130 interrupted.
"""


@click.group(
    help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="splitfrozen")
def bundle_command() -> None:
    pass


for _command in (inspect, verify, bench, publish, diff):
    bundle_command.add_command(_command)


def main() -> None:
    """Entry point: run the command and leave with a documented exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = bundle_command.main(standalone_mode=False)
    except SplitFrozenError as error:
        code = _complain(error)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted; the same command starts again.", err=True)
        code = INTERRUPTED
    except OSError as error:
        click.echo(f"Error: {error}", err=True)
        code = WRONG
    sys.exit(code)


def _complain(error: SplitFrozenError) -> int:
    if isinstance(error, RefusedError):
        click.echo(f"Error: {error.message} [{error.code}]", err=True)
        return REFUSED
    click.echo(f"Error: {error.message}", err=True)
    return WRONG if error.code in _WRONG else UNUSABLE


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
