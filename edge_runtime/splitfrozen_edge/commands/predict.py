"""`predict`."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splitfrozen_edge.connect import open_client
from splitfrozen_edge.options import (
    find_state,
    format_option,
    memory_option,
    model_options,
    retry_option,
    state_option,
    tell,
    warn,
)

if TYPE_CHECKING:
    from splitfrozen_edge.data.rows import Row
    from splitfrozen_edge.inference.predict import Prediction

    Answers = Iterable[tuple[Row, Prediction]]


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
@memory_option
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
    memory: str,
    fields: tuple[str, ...],
    retry_for: float,
    form: str,
) -> None:
    """Classify texts: the first blocks run here, the rest on the server.

    Answers are printed in the order of the texts, as they come. Every text is checked before
    anything is sent.

    Whoever runs the server can reconstruct the texts from what is sent. Splitting saves the server
    work; it does not hide anything from it.
    """
    from splitfrozen_edge.inference.choose import choose_model_bundle
    from splitfrozen_edge.inference.note import PRIVACY_NOTE, is_due
    from splitfrozen_edge.inference.predict import Predictor, warn_of_truncation
    from splitfrozen_edge.model.bundles import BundleStore
    from splitfrozen_edge.model.opening import open_session

    read = _texts(texts, data, fields)
    state = find_state(context, state_dir)
    client = open_client(state.enrolment(), retry_for, threading.Event(), on_wait=tell)
    outbox = state.outbox()
    try:
        chosen = choose_model_bundle(bundle, model, BundleStore(state, outbox, client), client)
        codec = wire or chosen.manifest.wire
        predictor = Predictor(model, chosen, client, wire=codec)
        warn_of_truncation(predictor, read(), warn)
        if is_due(state, interactive=sys.stderr.isatty()):
            click.echo(f"Note: {PRIVACY_NOTE}", err=True)
        session = open_session(chosen, state.path, threads=threads, memory=memory, wire=codec)
        answers = predictor.run(read(), session)
        (_print_document if form == "json" else _print_lines)(answers, model)
    finally:
        outbox.close()
        client.close()


def _texts(
    texts: tuple[str, ...], data: Path | None, fields: tuple[str, ...]
) -> Callable[[], Iterator[Row]]:
    """Reads the rows, each time anew: a large file is never in memory as a whole."""
    from splitfrozen_edge.data.rows import Row, Source, read_rows
    from splitfrozen_edge.data.shapes import parse_fields

    if bool(texts) == (data is not None):
        raise click.UsageError("say either --text or --data")
    if data is not None:
        source = Source(data, "inference", parse_fields(fields) or None)
        return lambda: read_rows(source)
    rows = [Row(line, {"text": text}) for line, text in enumerate(texts, 1)]
    return lambda: iter(rows)


def _print_document(answers: Answers, model: str) -> None:
    """One JSON object, written as it grows; unfinished if the work fails in the middle."""
    click.echo(f'{{"model": {json.dumps(model)}, "data": [', nl=False)
    for place, (_, item) in enumerate(answers):
        entry = {"line": item.line, "label": item.label, "scores": item.scores}
        click.echo((", " if place else "") + json.dumps(entry), nl=False)
    click.echo("]}")


def _print_lines(answers: Answers, model: str) -> None:
    for row, item in answers:
        best = sorted(item.scores.items(), key=lambda pair: -pair[1])[:5]
        scores = "  ".join(f"{name} {value:.3f}" for name, value in best)
        click.echo(f"{item.label}\t{scores}\t{row.fields['text'][:60]}")
