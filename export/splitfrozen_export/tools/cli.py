"""splitfrozen-bundle: what to do with a bundle once it is exported.

Exit codes: 0 ok, 1 something is wrong with the bundle (or `diff`: they differ), 2 wrong usage,
3 the server refused or does not answer, 130 interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from splitfrozen.errors import RefusedError, SplitFrozenError

OK, WRONG, UNUSABLE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 130
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
_DEFAULT_SERVER = "http://127.0.0.1:8000"

F = TypeVar("F", bound=Callable[..., Any])

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

_BUNDLE = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(
    help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="splitfrozen")
def bundle_command() -> None:
    pass


def _format_option(command: F) -> F:
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Lines for a person, or one JSON object.",
    )(command)


@bundle_command.command()
@click.argument("bundle", type=_BUNDLE)
@_format_option
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
    _print(output_format, lambda: overview_json(found), lambda: overview_lines(found))


@bundle_command.command()
@click.argument("bundle", type=_BUNDLE)
@click.option("--key", metavar="HEX", help="Require a signature of this Ed25519 public key.")
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
@_format_option
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
    from splitfrozen_export.tools.verdict import Wishes, verdict_json, verdict_lines, verify_bundle

    found = verify_bundle(bundle, Wishes(**options))
    _print(output_format, lambda: verdict_json(found), lambda: verdict_lines(found))
    sys.exit(OK if found.ok else WRONG)


@bundle_command.command()
@click.argument("bundle", type=_BUNDLE)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    multiple=True,
    default=(1, 2),
    show_default=True,
    help="Threads of ONNX Runtime. Repeatable.",
)
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Timed runs each."
)
@_format_option
def bench(bundle: Path, threads: tuple[int, ...], rounds: int, output_format: str) -> None:
    """Time BUNDLE on this machine: tokens per second, CPU time, load time, peak memory.

    Batches of 1 x 128 and 8 x 128 tokens; each number of threads in a process of its own. Times
    are medians. CPU time counts all threads.

    \b
    Example:
      splitfrozen-bundle bench bundles/gpt2-cut4 --threads 4
    """
    from splitfrozen_export.tools.bench import bench_bundle, bench_json, bench_lines

    found = bench_bundle(bundle, threads, rounds)
    _print(output_format, lambda: bench_json(found), lambda: bench_lines(found))


@bundle_command.command()
@click.argument("bundle", type=_BUNDLE)
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
@_format_option
def publish(
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
    from splitfrozen_export.tools.tokens import find_token

    found_token = find_token(server, token, data_dir, allow_plain_http=allow_plain_http)
    with (
        show_progress(STEPS) as shown,
        ServerConnection(server, found_token, ca=ca) as connection,
    ):
        found = publish_bundle(bundle, connection, shown.on_step, shown.on_part)
    _print(output_format, lambda: found, lambda: published_lines(found))


@bundle_command.command()
@click.argument("first", type=_BUNDLE)
@click.argument("second", type=_BUNDLE)
@click.option("--no-run", is_flag=True, help="Compare files only; run no graph.")
@_format_option
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
    _print(output_format, lambda: diff_json(found), lambda: diff_lines(found))
    sys.exit(OK if found.same else WRONG)


def _print(output_format: str, document: Callable[[], Any], lines: Callable[[], list[str]]) -> None:
    text = json.dumps(document(), ensure_ascii=False) if output_format == "json" else None
    click.echo("\n".join(lines()) if text is None else text)


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
