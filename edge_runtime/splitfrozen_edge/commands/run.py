"""`run`: the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from splitfrozen_edge.commands.feed import work
from splitfrozen_edge.commands.policy_flags import is_given, policy_options, take_policy
from splitfrozen_edge.options import find_state, outbox_option, state_option


@click.command(short_help="Feed all joined datasets, for as long as the machine runs.")
@state_option
@outbox_option
@policy_options
@click.option("--reset-policy", is_flag=True, help="Begin without the limits that were stored.")
@click.pass_context
def run(
    context: click.Context,
    /,
    *,
    state_dir: Path | None,
    outbox_bytes: int,
    reset_policy: bool,
    **rest: Any,
) -> None:
    """Follow the paths of all joined datasets, send what is new, survive a server that is away.

    Policy flags are stored in policy.json and hold until they are given again. SIGTERM ends it
    within seconds; SIGHUP reads policy.json and the joined datasets again, as a change of them
    does by itself soon after. Why it waits is shown by status.
    """
    from splitfrozen_edge.daemon.settings import StoredSettings
    from splitfrozen_edge.policy.stored import load_policy, store_policy

    state = find_state(context, state_dir)
    state.enrolment()  # says what to do before anything is written
    given = is_given(rest)
    policy = take_policy(rest, base=None if reset_policy else state.path)
    if reset_policy or (given and policy != load_policy(state.path)):
        store_policy(state.path, policy)
    work("run", state, StoredSettings(state.path), policy, outbox_bytes)
