"""`splitfrozen-edge`: flags and output. The only place that reads environment variables."""

from __future__ import annotations

import ipaddress
import json
import platform
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from splitfrozen_edge.exits import EXIT_CODES, Program
from splitfrozen_edge.options import (
    find_state,
    format_option,
    model_options,
    retry_option,
    state_option,
)
from splitfrozen_edge.queue_commands import queue
from splitfrozen_edge.state import Enrolment, StateDirectory, StateError

if TYPE_CHECKING:
    from splitfrozen_edge.client import Client
    from splitfrozen_edge.predict import Prediction
    from splitfrozen_edge.rows import Row


@click.group(
    cls=Program,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@state_option
@click.version_option(package_name="splitfrozen", prog_name="splitfrozen-edge")
@click.pass_context
def main(context: click.Context, state_dir: Path | None) -> None:
    """Run the frozen half of a language model on this device.

    enroll once, then push labelled data (or text) to a dataset: each row runs forward once, and
    the server trains on the activations. Whoever runs the server can turn activations back into
    the text: use a server that you trust with it.
    """
    context.obj = state_dir


@main.command(short_help="Make this device known to a server.")
@state_option
@click.option("--server", required=True, metavar="URL", help="http://HOST:PORT or https://…")
@click.option(
    "--token",
    required=True,
    envvar="SPLITFROZEN_TOKEN",
    help="Enrolment token (splitfrozen-server tokens create --role enrol).",
)
@click.option("--name", default=platform.node, show_default="host name", help="Name on the server.")
@click.option(
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="Certificate authority of a server with its own certificate.",
)
@click.option("--force", is_flag=True, help="Replace an enrolment.")
@retry_option(10)
@click.pass_context
def enroll(
    context: click.Context,
    *,
    state_dir: Path | None,
    server: str,
    token: str,
    name: str,
    ca_file: Path | None,
    force: bool,
    retry_for: float,
) -> None:
    """Make this device known to a server and keep its token (mode 0600)."""
    state = find_state(context, state_dir)
    _check_server(state, server, force=force)
    who = Enrolment(server, "", name, token, str(ca_file) if ca_file else None)
    client = _client(who, retry_for, threading.Event())
    profile = {"machine": platform.machine(), "system": platform.system()}
    try:
        device = client.enroll(name, profile)
    finally:
        client.close()
    state.store_enrolment(replace(who, device=str(device["id"]), token=str(device["token"])))
    click.echo(f"enrolled {name} as {device['id']} at {server}")


@main.command(short_help="Send a data file to a dataset.")
@state_option
@click.option("--dataset", required=True, metavar="NAME|ID", help="Made if it does not exist.")
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=".jsonl, .csv or .tsv.",
)
@click.option(
    "--task",
    type=click.Choice(["classification", "causal_lm"]),
    help="Of a new dataset; if omitted, the columns say.",
)
@click.option("--labels", metavar="NAME,…", help="Names of the labels 0, 1, … of the file.")
@click.option("--strict", is_flag=True, help="Refuse rows that are too long; do not truncate.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@model_options
@retry_option(120)
@format_option
@click.pass_context
def push(
    context: click.Context,
    /,
    *,
    state_dir: Path | None,
    retry_for: float,
    form: str,
    labels: str | None,
    fields: tuple[str, ...],
    **rest: Any,
) -> None:
    """Send a data file to a dataset, each row exactly once; the same command continues.

    \b
    Rows, detected from the columns or keys of the file:
      text, label                    classification (also: sentence)
      text, text_pair, label         pairs (also: sentence1/sentence2, premise/hypothesis)
      prompt, completion             language modelling (also: question/answer)
      messages                       chats, by the model's template; the last answer is learnt
      text                           language modelling on all tokens

    All rows are checked before anything is computed. Numbers as labels (0, 1, …) mean places in
    the list of a dataset that was created with its labels, or in --labels.
    """
    from splitfrozen_edge.push import PushRequest, push_file
    from splitfrozen_edge.shapes import parse_fields

    request = PushRequest(
        fields=parse_fields(fields) or None,
        labels=tuple(name.strip() for name in labels.split(",")) if labels else (),
        **rest,
    )
    state = find_state(context, state_dir)
    stop = threading.Event()
    client = _client(state.enrolment(), retry_for, stop)
    try:
        report = push_file(request, state, client, stop=stop, warn=_warn)
    finally:
        client.close()
    click.echo(json.dumps(report.document()) if form == "json" else "\n".join(report.lines()))


@main.command(short_help="Classify texts together with the server.")
@state_option
@click.option("--model", required=True, metavar="NAME", help="ft:… of a finished job.")
@click.option("--text", "texts", multiple=True, help="A text; may be repeated.")
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Texts of a .jsonl, .csv or .tsv file.",
)
@model_options
@retry_option(120)
@format_option
@click.pass_context
def predict(
    context: click.Context,
    *,
    state_dir: Path | None,
    model: str,
    texts: tuple[str, ...],
    data: Path | None,
    bundle: str | None,
    wire: str | None,
    threads: int | None,
    fields: tuple[str, ...],
    retry_for: float,
    form: str,
) -> None:
    """Classify texts: the first blocks run here, the rest on the server.

    Whoever runs the server can reconstruct the texts from what is sent. Splitting saves the server
    work; it does not hide anything from it.
    """
    from splitfrozen_edge.bundles import BundleStore
    from splitfrozen_edge.predict import PRIVACY_NOTE, choose_model_bundle, classify

    rows = _texts(texts, data, fields)
    state = find_state(context, state_dir)
    client = _client(state.enrolment(), retry_for, threading.Event())
    outbox = state.outbox()
    try:
        chosen = choose_model_bundle(bundle, model, BundleStore(state, outbox, client), client)
        found = classify(rows, model, chosen, client, wire=wire, threads=threads, warn=_warn)
    finally:
        outbox.close()
        client.close()
    click.echo(f"Note: {PRIVACY_NOTE}", err=True)
    _print_predictions(rows, found, model, form)


@main.command(short_help="Show device, outbox and bundles.")
@state_option
@format_option
@click.pass_context
def status(context: click.Context, *, state_dir: Path | None, form: str) -> None:
    """Show who this device is, what waits in the outbox and which bundles are here."""
    from splitfrozen_edge.status import read_status, status_lines

    found = read_status(find_state(context, state_dir))
    click.echo(json.dumps(found) if form == "json" else "\n".join(status_lines(found)))


main.add_command(queue)


def _client(enrolment: Enrolment, retry_for: float, stop: threading.Event) -> Client:
    from splitfrozen_edge.client import Client
    from splitfrozen_edge.pipeline import Stopped
    from splitfrozen_edge.retry import RetryPolicy

    def wait(seconds: float) -> None:
        if stop.wait(seconds):
            raise Stopped

    return Client(
        enrolment.server,
        enrolment.token,
        ca_file=Path(enrolment.ca_file) if enrolment.ca_file else None,
        policy=RetryPolicy(patience=retry_for),
        wait=wait,
    )


def _check_server(state: StateDirectory, server: str, *, force: bool) -> None:
    if not server.startswith(("http://", "https://")):
        raise StateError(f"--server {server}: needs http:// or https://")
    if server.startswith("http://") and not _is_loopback(server):
        _warn("plain http: anyone on the way can read the token and the data; use https")
    if state.is_enrolled() and not force:
        old = state.enrolment()
        raise StateError(f"already enrolled as {old.name} at {old.server}; --force replaces that")


def _is_loopback(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _texts(texts: tuple[str, ...], data: Path | None, fields: tuple[str, ...]) -> list[Row]:
    from splitfrozen_edge.rows import Row, Source, read_rows
    from splitfrozen_edge.shapes import parse_fields

    if bool(texts) == (data is not None):
        raise click.UsageError("say either --text or --data")
    if data is not None:
        return list(read_rows(Source(data, "inference", parse_fields(fields) or None)))
    return [Row(line, {"text": text}) for line, text in enumerate(texts, 1)]


def _print_predictions(rows: list[Row], found: list[Prediction], model: str, form: str) -> None:
    if form == "json":
        data = [{"line": item.line, "label": item.label, "scores": item.scores} for item in found]
        click.echo(json.dumps({"model": model, "data": data}))
        return
    for row, item in zip(rows, found, strict=True):
        best = sorted(item.scores.items(), key=lambda pair: -pair[1])[:5]
        scores = "  ".join(f"{name} {value:.3f}" for name, value in best)
        click.echo(f"{item.label}\t{scores}\t{row.fields['text'][:60]}")


def _warn(message: str) -> None:
    click.echo(f"Warning: {message}", err=True)
