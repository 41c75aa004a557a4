"""`doctor`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from splitfrozen_edge.options import find_state, format_option, state_option


@click.command(short_help="Look for what keeps this device from working.")
@state_option
@click.option("--bundle", metavar="DIR|ID", help="Bundle; if omitted, all that are here.")
@click.option("--offline", is_flag=True, help="Ask nobody on the network.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default="10",
    metavar="SECONDS",
    help="How long to wait for each answer of the server.",
)
@click.option(
    "--launcher",
    metavar="COMMAND",
    default="",
    help="What starts Python where it cannot start itself: an emulator with its options.",
)
@format_option
@click.pass_context
def doctor(
    context: click.Context,
    *,
    state_dir: Path | None,
    bundle: str | None,
    offline: bool,
    timeout: float,
    launcher: str,
    form: str,
) -> int:
    """Check this device and its way to the server; say what to do about what is wrong.

    Looks at Python, processor, memory, disk, clock, power supply, the state directory, the outbox
    and the bundles, runs the runtime in a process of its own, then goes to the server: name,
    connection, certificate, version, token. It changes nothing and works before enroll, too.

    ok: fine. warn: it works, but. fail: the device cannot work like this, and the exit code is 1.
    """
    from urllib.request import getproxies

    from splitfrozen_edge.checkup.doctor.examine import Examination, examine
    from splitfrozen_edge.checkup.doctor.findings import Finding, document, finding_lines

    wanted = Examination(
        find_state(context, state_dir),
        bundle=bundle,
        launcher=shlex.split(launcher),
        offline=offline,
        seconds=timeout,
        proxies=getproxies(),
    )
    findings: list[Finding] = []
    for finding in examine(wanted):
        findings.append(finding)
        if form == "text":
            click.echo("\n".join(finding_lines(finding)))
    found = document(findings)
    if form == "json":
        click.echo(json.dumps(found))
    return 0 if found["healthy"] else 1
