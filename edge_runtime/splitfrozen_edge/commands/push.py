"""`push`."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitfrozen_edge.commands.policy_flags import policy_options, take_policy
from splitfrozen_edge.connect import open_client
from splitfrozen_edge.options import (
    find_state,
    format_option,
    memory_option,
    model_options,
    outbox_option,
    retry_option,
    state_option,
    tell,
    warn,
)

if TYPE_CHECKING:
    from splitfrozen_edge.http.client import Client


@click.command(short_help="Send a data file to a dataset.")
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
@outbox_option
@click.option(
    "--max-age",
    type=click.FloatRange(min=0),
    default=30,
    show_default="30",
    metavar="DAYS",
    help="Tell about rows that wait for longer; nothing is dropped (see queue drop).",
)
@model_options
@memory_option
@policy_options
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
    max_age: float,
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
    from splitfrozen.errors import RefusedError
    from splitfrozen_edge.data.shapes import parse_fields
    from splitfrozen_edge.policy.gate import PolicyGate
    from splitfrozen_edge.policy.readings import Readers
    from splitfrozen_edge.pushing.file import PushRequest, push_file

    policy = take_policy(rest)
    request = PushRequest(
        fields=parse_fields(fields) or None,
        labels=tuple(name.strip() for name in labels.split(",")) if labels else (),
        **rest,
    )
    state = find_state(context, state_dir)
    stop = threading.Event()
    gate = PolicyGate(
        policy,
        Readers(metered_interfaces=policy.metered_interfaces),
        stop,
        on_hold=lambda reasons: warn("waits: " + "; ".join(r.message for r in reasons)),
    )
    client = open_client(state.enrolment(), retry_for, stop, on_wait=tell)
    _limit_rate(client, policy.max_rate, stop)
    try:
        gate.before_upload(0)  # questions and a bundle's download are traffic too
        report = push_file(
            request, state, client, stop=stop, warn=warn, gate=gate, max_age=max_age * 86400
        )
    finally:
        client.close()
    click.echo(json.dumps(report.document()) if form == "json" else "\n".join(report.lines()))
    if report.refusals:
        raise RefusedError(report.refusals[0].code, report.refusal())


def _limit_rate(client: Client, rate: int | None, stop: threading.Event) -> None:
    """Spread uploads over time; `rate` in bytes/s."""
    from splitfrozen_edge.policy.rate import TokenBucket
    from splitfrozen_edge.pushing.stopping import Stopped

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise Stopped

    if rate:
        client.throttle = TokenBucket(rate, pause).take
