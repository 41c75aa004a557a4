"""The main job end to end on this machine, with real commands, and a report.

    make demo                              all-MiniLM-L6-v2 on the smart-home sentences
    make demo MODEL=gpt2 DATA=mine.jsonl   any model, any classification file

Exit codes: 0 training helped, 1 it did not or a command failed, 2 wrong usage or bad input,
130 interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splitfrozen.errors import DataError, ModelError

if TYPE_CHECKING:
    from benchmarks.walkthrough.job import MainJob
    from benchmarks.walkthrough.plan import Plan
    from benchmarks.walkthrough.report import Report

FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130


@click.command()
@click.option("--model", envvar="MODEL", help="Hub id or directory.  [default: all-MiniLM-L6-v2]")
@click.option(
    "--data",
    envvar="DATA",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Labelled .jsonl, .csv or .tsv.  [default: examples/smart_home]",
)
@click.option(
    "--heldout",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Held-out file.  [default: a fifth of --data]",
)
@click.option("--cut", type=click.IntRange(1), help="Blocks on the device.  [default: half]")
@click.option("--devices", type=click.IntRange(1, 50), default=5, show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=4, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Where everything is written; replaced by the next demo.",
)
@click.option("--keep", is_flag=True, help="Leave the server running until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def demo(
    model: str | None,
    data: Path | None,
    heldout: Path | None,
    cut: int | None,
    devices: int,
    epochs: int,
    seed: int,
    output: Path,
    keep: bool,
    as_json: bool,
) -> int:
    """Train on five devices' data without training on a device, and compare."""
    from benchmarks.inputs import choose_inputs
    from benchmarks.walkthrough.plan import Settings, make_plan, prepare_output

    started = time.monotonic()
    inputs = choose_inputs(model, data, heldout)
    settings = Settings(cut or _half(inputs.model), devices=devices, epochs=epochs, seed=seed)
    plan = make_plan(inputs, settings, output)
    prepare_output(plan)
    report = _run(plan, started, keep=keep)
    click.echo(json.dumps(report.document()) if as_json else report.summary())
    return 0 if report.helped else FAILED


def _run(plan: Plan, started: float, *, keep: bool) -> Report:
    from benchmarks.real_inputs import REPOSITORY
    from benchmarks.walkthrough.baselines import run_baselines
    from benchmarks.walkthrough.children import Children
    from benchmarks.walkthrough.job import run_main_job
    from benchmarks.walkthrough.report import Report, print_report
    from benchmarks.walkthrough.stages import Stages

    with Children(plan.output / "logs", REPOSITORY) as children:
        with Stages() as stages:
            main_job = run_main_job(children, plan, stages)
            if not keep:
                main_job.server.stop()  # the baselines get the whole machine
            baselines = run_baselines(children, plan, main_job, stages)
        report = Report(plan, main_job, baselines, time.monotonic() - started)
        print_report(report)
        if keep:
            _wait(main_job)
    return report


def _wait(main_job: MainJob) -> None:
    click.echo(f"The server goes on at {main_job.server.url}/docs; Ctrl-C ends it.", err=True)
    try:
        main_job.server.child.process.wait()
    except KeyboardInterrupt:
        click.echo(err=True)


def _half(model: str) -> int:
    """Half of the model's blocks."""
    from splitfrozen_export.split import resolve_model

    return max(1, int(resolve_model(model).config.num_hidden_layers) // 2)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: every expected failure ends in one line and its exit code."""
    from benchmarks.real_inputs import RealInputError
    from benchmarks.walkthrough.children import CommandError

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = demo.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (DataError, ModelError, FileExistsError) as error:
        code = _complain(error, UNUSABLE)
    except (CommandError, RealInputError) as error:
        code = _complain(error, FAILED)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted; everything that was started has been stopped.", err=True)
        code = INTERRUPTED
    sys.exit(code)


def _complain(error: Exception, code: int) -> int:
    click.echo(f"Error: {error}", err=True)
    return code


if __name__ == "__main__":
    main()
