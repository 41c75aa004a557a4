"""`splitfrozen-bundle bench`."""

from __future__ import annotations

from pathlib import Path

import click

from splitfrozen_export.tools.printing import BUNDLE, format_option, print_result


@click.command()
@click.argument("bundle", type=BUNDLE)
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
@format_option
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
    print_result(output_format, lambda: bench_json(found), lambda: bench_lines(found))
