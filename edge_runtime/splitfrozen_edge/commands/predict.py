"""`predict`."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splitfrozen_edge.connect import open_client
from splitfrozen_edge.options import (
    find_state,
    format_option,
    model_options,
    retry_option,
    state_option,
    warn,
)

if TYPE_CHECKING:
    from splitfrozen_edge.data.rows import Row
    from splitfrozen_edge.inference.predict import Prediction


@click.command(short_help="Classify texts together with the server.")
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
    from splitfrozen_edge.inference.predict import PRIVACY_NOTE, choose_model_bundle, classify
    from splitfrozen_edge.model.bundles import BundleStore

    rows = _texts(texts, data, fields)
    state = find_state(context, state_dir)
    client = open_client(state.enrolment(), retry_for, threading.Event())
    outbox = state.outbox()
    try:
        chosen = choose_model_bundle(bundle, model, BundleStore(state, outbox, client), client)
        found = classify(rows, model, chosen, client, wire=wire, threads=threads, warn=warn)
    finally:
        outbox.close()
        client.close()
    click.echo(f"Note: {PRIVACY_NOTE}", err=True)
    _print_predictions(rows, found, model, form)


def _texts(texts: tuple[str, ...], data: Path | None, fields: tuple[str, ...]) -> list[Row]:
    from splitfrozen_edge.data.rows import Row, Source, read_rows
    from splitfrozen_edge.data.shapes import parse_fields

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
