"""Which versions of what a board gets: those that this environment has, and all they need."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_OWN = "splitfrozen"  # run from its sources, or installed from a wheel of its own


def pin(requirements: Sequence[str], *, python: str, machine: str) -> list[str]:
    """`name==version` of all requirements and theirs on that Python and machine, sorted.

    What is not installed here, because this Python does not need it, stays as it is required.
    """
    pins: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        key = name, frozenset(wanted.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            pins[name] = f"{name}=={metadata.version(name)}"
        except metadata.PackageNotFoundError:
            pins.setdefault(name, f"{name}{wanted.specifier}")
            continue
        needed = map(Requirement, metadata.requires(name) or ())
        waiting += [item for item in needed if _applies(item, wanted.extras, python, machine)]
    pins.pop(_OWN, None)
    return sorted(pins.values())


def applies(needed: Requirement, extra: str, python: str, machine: str) -> bool:
    """Whether a requirement counts there; `extra` may be empty."""
    board = {"platform_machine": machine, "python_version": python, "extra": extra}
    board |= {"python_full_version": f"{python}.0", "sys_platform": "linux"}
    return needed.marker is None or needed.marker.evaluate(board)


def _applies(needed: Requirement, extras: set[str], python: str, machine: str) -> bool:
    return any(applies(needed, extra, python, machine) for extra in extras or {""})
