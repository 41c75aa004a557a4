"""`splitfrozen-bundle inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from splitfrozen_export.tools.printing import BUNDLE, format_option, print_result


@click.command()
@click.argument("bundle", type=BUNDLE)
@format_option
def inspect(bundle: Path, output_format: str) -> None:
    """Say what BUNDLE is: model, cut, sizes, operators, memory, bytes on the wire, errors.

    Reads the manifest and the graph; checks no hash (that is `verify`) and runs nothing. Memory
    is estimated from the graph: packed weights of products, embedding tables, and the largest sum
    of values alive at once.

    \b
    Example:
      splitfrozen-bundle inspect bundles/gpt2-cut4 --format json
    """
    from splitfrozen_export.tools.overview import overview_json, overview_lines, read_overview

    found = read_overview(bundle)
    print_result(output_format, lambda: overview_json(found), lambda: overview_lines(found))
