"""`splitfrozen-bundle publish`."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from splitfrozen_export.tools.printing import BUNDLE, format_option, print_result

_DEFAULT_SERVER = "http://127.0.0.1:8000"


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--server",
    default=_DEFAULT_SERVER,
    show_default=True,
    envvar="SPLITFROZEN_SERVER",
    show_envvar=True,
    help="Address of the server.",
)
@click.option(
    "--token",
    envvar="SPLITFROZEN_TOKEN",
    show_envvar=True,
    help="Admin token. For a server on this machine: the admin.token file in --data-dir.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("state"),
    show_default=True,
    envvar="SPLITFROZEN_DATA_DIR",
    show_envvar=True,
    help="State directory of a server on this machine.",
)
@click.option(
    "--ca",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Certificate that signs the server's, if it is your own.",
)
@click.option(
    "--allow-plain-http",
    is_flag=True,
    help="Send the token to another machine without encryption: only in a network that you trust.",
)
@format_option
@click.pass_context
def publish(
    context: click.Context,
    bundle: Path,
    server: str,
    token: str | None,
    data_dir: Path,
    ca: Path | None,
    allow_plain_http: bool,
    output_format: str,
) -> None:
    """Upload BUNDLE to a server, which publishes it when all of it has arrived.

    The bundle is verified first. Interrupted, the same command continues and sends no finished
    file again. The server must know the base model.

    \b
    Examples:
      splitfrozen-bundle publish bundles/gpt2-cut4
      splitfrozen-bundle publish bundles/gpt2-cut4 --server https://server.example:8000 \\
          --token sf_adm_…
    """
    from splitfrozen_export.progress import show_progress
    from splitfrozen_export.tools.publish import STEPS, publish_bundle, published_lines
    from splitfrozen_export.tools.server import ServerConnection
    from splitfrozen_export.tools.tokens import Token, find_token

    said = context.get_parameter_source("token") is ParameterSource.COMMANDLINE
    given = Token(token, "--token" if said else "SPLITFROZEN_TOKEN") if token else None
    known = find_token(server, given, data_dir, allow_plain_http=allow_plain_http)
    with (
        show_progress(STEPS) as shown,
        ServerConnection(server, known.text, ca=ca, on_retry=shown.on_note) as connection,
    ):
        shown.on_note(f"Using the token of {known.origin}")
        found = publish_bundle(bundle, connection, shown.on_step, shown.on_part)
    print_result(output_format, lambda: found, lambda: published_lines(found))
