"""`bench`."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitfrozen_edge.connect import open_client
from splitfrozen_edge.options import (
    find_state,
    format_option,
    memory_option,
    state_option,
    warn,
)

if TYPE_CHECKING:
    from splitfrozen.bundle import Bundle
    from splitfrozen_edge.state import StateDirectory


@click.command(short_help="Measure how fast a bundle runs here.")
@state_option
@click.option(
    "--bundle", metavar="DIR|ID", help="Bundle that is here; if omitted, the last used one."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 600),
    default=9.0,
    show_default="9",
    metavar="N",
    help="How long batches are timed, in all.",
)
@click.option("--threads", type=click.IntRange(1, 64), help="Threads; if omitted, as measured.")
@memory_option
@click.option("--upload", is_flag=True, help="Tell the server, whose planner uses it.")
@format_option
@click.pass_context
def bench(
    context: click.Context,
    *,
    state_dir: Path | None,
    bundle: str | None,
    seconds: float,
    threads: int | None,
    memory: str,
    upload: bool,
    form: str,
) -> None:
    """Measure a bundle on this device: time per block and batch, CPU-seconds, memory, uplink.

    \b
    Tokens are ids from all over the vocabulary: what they say does not matter for time.
    Milliseconds and CPU-seconds of a block come from ONNX Runtime's times of the graph's nodes.
    Memory is that of a process of its own, in the normal and the low profile (--memory).
    The uplink is what the last larger push saw: nothing is sent to measure it.
    """
    from splitfrozen_edge.checkup.bench.lines import bench_lines
    from splitfrozen_edge.checkup.bench.measure import BenchRequest, measure_bundle

    state = find_state(context, state_dir)
    request = BenchRequest(seconds, threads, memory)
    found = measure_bundle(_find_bundle(state, bundle), state.path, request)
    found["round_trip_ms"] = _ask_server(state, found, upload=upload)
    click.echo(json.dumps(found) if form == "json" else "\n".join(bench_lines(found)))


def _ask_server(state: StateDirectory, found: dict[str, Any], *, upload: bool) -> float | None:
    """The round trip in milliseconds; sends the profile if asked to, and then must succeed."""
    from splitfrozen.errors import RefusedError
    from splitfrozen_edge.checkup.bench.link import round_trip

    if not (upload or state.is_enrolled()):
        return None
    client = open_client(state.enrolment(), 10.0 if upload else 0.0, threading.Event())
    try:
        milliseconds = round_trip(client)
        if upload:
            profile = {**found, "round_trip_ms": milliseconds}
            client.call("PUT", "/v1/devices/self/profile", {"profile": profile})
        return milliseconds
    except RefusedError as error:
        if upload:
            raise
        warn(f"the server was not asked: {error.message}")
        return None
    finally:
        client.close()


def _find_bundle(state: StateDirectory, wanted: str | None) -> Bundle:
    """A bundle that is on this device already."""
    from splitfrozen.bundle import read_bundle
    from splitfrozen.manifest import MANIFEST_NAME
    from splitfrozen_edge.state import StateError

    if wanted is not None and Path(wanted).is_dir():
        return read_bundle(Path(wanted))
    outbox = state.outbox()
    try:
        here = {known: path for known, path in outbox.bundles() if (path / MANIFEST_NAME).is_file()}
    finally:
        outbox.close()
    for known, path in here.items():
        if wanted is None or known == wanted:
            return read_bundle(path)
    if wanted is None:
        raise StateError("no bundle was used on this device yet; say --bundle DIRECTORY")
    raise StateError(f"--bundle {wanted}: neither a directory nor a bundle that is here")
