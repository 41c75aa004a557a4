"""`splitfrozen-bundle verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from splitfrozen.errors import ManifestError
from splitfrozen.signature import parse_key
from splitfrozen_export.tools.printing import BUNDLE, OK, WRONG, format_option, print_result


def _check_key(_context: click.Context, _option: click.Parameter, key: str | None) -> str | None:
    if key is not None:
        try:
            parse_key(key)
        except ManifestError as error:
            raise click.BadParameter(error.message) from None
    return key


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--key",
    metavar="HEX",
    callback=_check_key,
    help="Require a signature of this Ed25519 public key.",
)
@click.option("--model", metavar="MODEL", help="Compare with this base model: Hub id or directory.")
@click.option("--revision", metavar="REVISION", help="Branch, tag or commit of a Hub model.")
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Texts to compare on: one a line, or rows of a .jsonl.  [default: built-in sentences]",
)
@click.option(
    "--max-error",
    type=click.FloatRange(min=0),
    help="Relative error that is accepted.  [default: by precision]",
)
@click.option("--trust-remote-code", is_flag=True, help="Run the model's own Python code.")
@format_option
def verify(bundle: Path, output_format: str, **options: Any) -> None:
    """Check every byte of BUNDLE, that its graph runs, and with --model that it is the model's.

    Checks the hash of every file, that no other file is there, the signature when there is one,
    the graph's inputs, outputs and weights, and that an int8 activation does not depend on its
    batch. With --model also the prefix digest and the numbers against the model in torch.

    \b
    Examples:
      splitfrozen-bundle verify bundles/gpt2-cut4
      splitfrozen-bundle verify bundles/gpt2-cut4 --model gpt2 --data texts.txt
      splitfrozen-bundle verify bundles/gpt2-cut4 --key 5f1c…
    """
    from splitfrozen_export.place import check_place
    from splitfrozen_export.tools.verdict import Wishes, verify_bundle
    from splitfrozen_export.tools.verdict_text import verdict_json, verdict_lines

    if options["model"] is not None:
        check_place(options["model"], None)
    found = verify_bundle(bundle, Wishes(**options))
    print_result(output_format, lambda: verdict_json(found), lambda: verdict_lines(found))
    sys.exit(OK if found.ok else WRONG)
