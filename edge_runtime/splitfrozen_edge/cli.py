"""`splitfrozen-edge`: its commands. The only place that reads environment variables."""

from __future__ import annotations

from pathlib import Path

import click

from splitfrozen_edge.commands.bench import bench
from splitfrozen_edge.commands.chat import chat
from splitfrozen_edge.commands.doctor import doctor
from splitfrozen_edge.commands.enroll import enroll
from splitfrozen_edge.commands.forget import forget
from splitfrozen_edge.commands.generate import generate
from splitfrozen_edge.commands.join import join, leave
from splitfrozen_edge.commands.predict import predict
from splitfrozen_edge.commands.push import push
from splitfrozen_edge.commands.queue import queue
from splitfrozen_edge.commands.run import run
from splitfrozen_edge.commands.service import service
from splitfrozen_edge.commands.status import status
from splitfrozen_edge.commands.token import token
from splitfrozen_edge.commands.watch import watch
from splitfrozen_edge.exits import EXIT_CODES, Program
from splitfrozen_edge.options import state_option


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


for command in (
    enroll,
    push,
    watch,
    join,
    leave,
    run,
    predict,
    generate,
    chat,
    status,
    queue,
    doctor,
    bench,
    service,
    forget,
    token,
):
    main.add_command(command)
