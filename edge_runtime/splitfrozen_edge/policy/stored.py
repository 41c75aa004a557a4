"""policy.json: the policy of `run`. Refuses what it does not understand, by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from splitfrozen_edge.atomic import replace_file
from splitfrozen_edge.policy.quiet import QuietHours
from splitfrozen_edge.policy.rules import Policy
from splitfrozen_edge.state import StateError

NAME = "policy.json"


def policy_document(policy: Policy) -> dict[str, Any]:
    """JSON-ready: all fields, None where nothing is limited."""
    found = {item.name: getattr(policy, item.name) for item in fields(Policy)}
    found["metered_interfaces"] = list(policy.metered_interfaces)
    found["quiet_hours"] = None if policy.quiet_hours is None else str(policy.quiet_hours)
    return found


def load_policy(directory: Path) -> Policy:
    """The stored policy, or one that allows everything; StateError names file and field."""
    path = directory / NAME
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return Policy()
    try:
        document = json.loads(text)
    except ValueError as error:
        raise StateError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise StateError(f"{path} is not a JSON object")
    try:
        return read_policy(document)
    except StateError as error:
        raise StateError(f"{path}: {error}") from None


def store_policy(directory: Path, policy: Policy) -> None:
    """Keep a policy for `run`."""
    text = json.dumps(policy_document(policy), indent=2)
    replace_file(directory / NAME, text + "\n", durable=True)


def read_policy(document: Mapping[str, Any]) -> Policy:
    """Check every field; StateError says which one is wrong."""
    unknown = sorted(set(document) - set(_CHECKS))
    if unknown:
        raise StateError(f"there is no {unknown[0]}; known: {', '.join(_CHECKS)}")
    given = {name: value for name, value in document.items() if value is not None}
    return Policy(**{name: _CHECKS[name](name, value) for name, value in given.items()})


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise StateError(f"{name} is true or false; not {value!r}")
    return value


def _number(low: float, high: float) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise StateError(f"{name} is a number from {low:g} to {high:g}; not {value!r}")
        return float(value)

    return check


def _rate(name: str, value: Any) -> int:
    return int(_number(1, 1e12)(name, value))


def _hours(name: str, value: Any) -> QuietHours:
    if not isinstance(value, str):
        raise StateError(f"{name} is HH:MM-HH:MM; not {value!r}")
    return QuietHours.parse(value)


def _names(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise StateError(f"{name} is a list of names; not {value!r}")
    return tuple(value)


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "only_unmetered": _flag,
    "metered_interfaces": _names,
    "only_charging": _flag,
    "pause_above_temp": _number(0, 150),
    "max_rate": _rate,
    "cpu_share": _number(0.01, 1),
    "quiet_hours": _hours,
}
