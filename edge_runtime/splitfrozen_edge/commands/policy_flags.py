"""The policy flags that push, watch and run share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from splitfrozen_edge.policy.rules import Policy

_OPTIONS = (
    click.option(
        "--only-unmetered/--any-network",
        default=None,
        help="Send nothing over a network whose traffic costs money.",
    ),
    click.option(
        "--metered-interface",
        "metered_interfaces",
        multiple=True,
        metavar="NAME",
        help="An interface that costs money; without any, NetworkManager says.",
    ),
    click.option(
        "--only-charging/--on-battery",
        default=None,
        help="Work only while plugged in; a machine without a battery always is.",
    ),
    click.option(
        "--pause-above-temp",
        type=click.FloatRange(0, 150),
        metavar="CELSIUS",
        help="Compute nothing above it, until it is 5 degrees cooler.",
    ),
    click.option(
        "--max-rate",
        type=click.IntRange(min=1),
        metavar="BYTES/S",
        help="Of uploads.",
    ),
    click.option(
        "--cpu-share",
        type=click.FloatRange(0.01, 1),
        metavar="0…1",
        help="Of one core while computing, on average.",
    ),
    click.option(
        "--quiet-hours",
        metavar="HH:MM-HH:MM",
        help="Neither compute nor send then, by the local clock.",
    ),
)
NAMES = (
    "only_unmetered",
    "metered_interfaces",
    "only_charging",
    "pause_above_temp",
    "max_rate",
    "cpu_share",
    "quiet_hours",
)


def policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--only-unmetered … --quiet-hours, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_policy(values: dict[str, Any], base: Path | None = None) -> Policy:
    """Take the flags out of a command's values; what was not given is as in `base`'s policy.json.

    Raises StateError that names what is wrong.
    """
    from splitfrozen_edge.policy.rules import Policy
    from splitfrozen_edge.policy.stored import load_policy, policy_document, read_policy

    given = {name: values.pop(name) for name in NAMES}
    given["metered_interfaces"] = list(given["metered_interfaces"]) or None
    stored = policy_document(Policy() if base is None else load_policy(base))
    return read_policy(stored | {name: v for name, v in given.items() if v is not None})


def is_given(values: dict[str, Any]) -> bool:
    """Whether any policy flag was given."""
    return any(values[name] not in (None, ()) for name in NAMES)
