"""`splitfrozen-bundle diff`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from splitfrozen_export.tools.printing import BUNDLE, OK, WRONG, format_option, print_result


@click.command()
@click.argument("first", type=BUNDLE)
@click.argument("second", type=BUNDLE)
@click.option("--no-run", is_flag=True, help="Compare files only; run no graph.")
@format_option
def diff(first: Path, second: Path, no_run: bool, output_format: str) -> None:
    """Say what differs between two bundles: manifest, files, operators, tensors, outputs.

    Outputs are compared on the built-in sentences. The exit code is 0 when nothing differs, 1
    when something does.

    \b
    Example:
      splitfrozen-bundle diff bundles/gpt2-cut4 bundles/gpt2-cut4-int4
    """
    from splitfrozen_export.tools.difference import compare_bundles, diff_json, diff_lines

    found = compare_bundles(first, second, run=not no_run)
    print_result(output_format, lambda: diff_json(found), lambda: diff_lines(found))
    sys.exit(OK if found.same else WRONG)
