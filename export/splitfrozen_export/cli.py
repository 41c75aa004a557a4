"""splitfrozen-export: cut a model and write the bundle that devices run.

Exit codes: 0 ok, 1 the export failed (a proof or a comparison), 2 wrong usage or a model, file or
flag that cannot be used, 130 interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from splitfrozen.errors import SplitFrozenError
from splitfrozen_export.options import SectionedCommand, export_options

if TYPE_CHECKING:
    from splitfrozen_export.request import Request

FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130
_FAILURES = ("check_failed", "internal_error", "insufficient_storage")

_HELP = """Cut a model after its first blocks and write the bundle that devices run.

The bundle is a directory: the first CUT blocks as an ONNX graph with its weights, the tokenizer,
and splitfrozen.json. The export proves that device and server together equal the whole model,
compares the graph with torch, and writes nothing when either fails.

\b
Examples:
  splitfrozen-export --model gpt2 --cut 4 --output bundles/gpt2-cut4 --dry-run
  splitfrozen-export --model gpt2 --cut 4 --output bundles/gpt2-cut4
  splitfrozen-export --model ./my-model --cut 3 --output bundles/mine \\
      --precision int8 --calibrate texts.jsonl --eval held-out.txt
  splitfrozen-export --model gpt2 --whole --adapter my-adapter --output gpt2-mine

HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean to Transformers.

\b
Exit codes: 0 written, 1 a proof or comparison failed, 2 wrong usage or a model that cannot be
used, 130 interrupted.
"""


@click.command(
    cls=SectionedCommand, help=_HELP, context_settings={"help_option_names": ["-h", "--help"]}
)
@export_options
@click.version_option(package_name="splitfrozen")
def export_command(output_format: str, cut: int | None, **options: Any) -> None:
    from splitfrozen_export.request import Request

    request = Request(cut=cut or 0, **options)
    _check_cheaply(request)
    from splitfrozen_export.quiet import silence_transformers

    silence_transformers()
    document, lines = _run(request)
    if cut is not None and options["whole"]:
        lines.append(f"Note: --whole takes all blocks; --cut {cut} changes nothing")
    click.echo(json.dumps(document) if output_format == "json" else "\n".join(lines))


def _check_cheaply(request: Request) -> None:
    """Refuse what can be refused before torch and transformers take their seconds to import."""
    from splitfrozen_export.place import check_place
    from splitfrozen_export.request import check_output, check_request

    check_request(request)
    check_output(request)
    check_place(request.model, None if request.whole else request.cut)


def _run(request: Request) -> tuple[dict[str, Any], list[str]]:
    """Do what was asked; the summary as an object and as lines for a person."""
    if request.dry_run:
        return _forecast(request)
    if request.whole or request.segment == "server":
        return _take_home(request)
    from splitfrozen_export.export import export_bundle
    from splitfrozen_export.progress import show_progress
    from splitfrozen_export.steps import STEPS
    from splitfrozen_export.summary import summary_json, summary_lines

    with show_progress(STEPS) as shown:
        result = export_bundle(request, shown.on_step, shown.on_part)
    return summary_json(result), summary_lines(result, request)


def _forecast(request: Request) -> tuple[dict[str, Any], list[str]]:
    if request.whole or request.segment == "server":
        from splitfrozen_export.home.forecast import forecast_home

        found = forecast_home(request)
        return found.summary_json(), found.summary_lines()
    from splitfrozen_export.dry_run import forecast, forecast_json, forecast_lines
    from splitfrozen_export.plan import make_plan

    known = forecast(make_plan(request))
    return forecast_json(known), forecast_lines(known)


def _take_home(request: Request) -> tuple[dict[str, Any], list[str]]:
    from splitfrozen_export.home import HOME_STEPS, export_server_half, export_whole
    from splitfrozen_export.progress import show_progress

    export = export_whole if request.whole else export_server_half
    with show_progress(HOME_STEPS) as shown:
        result = export(request, shown.on_step, shown.on_part)
    return result.summary_json(), result.summary_lines()


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


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
