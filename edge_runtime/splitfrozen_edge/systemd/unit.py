"""The unit's text for one machine. Pure."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import PurePosixPath

UNIT = "splitfrozen-edge.service"
_STATE_ROOT = PurePosixPath("/var/lib")
_WORD = re.compile(r"[A-Za-z0-9/._+@-]+")


def read_unit() -> str:
    """The unit as it ships, for /opt/splitfrozen and /var/lib/splitfrozen-edge."""
    return files("splitfrozen_edge.systemd").joinpath(UNIT).read_text("utf-8")


def fill_unit(unit: str, *, program: str, user: str, state: str) -> str:
    """Put in the program's path, the user and the state directory, below /var/lib.

    Raises ValueError for what a unit cannot say without quotes, or for a directory elsewhere:
    systemd makes, owns and opens only what lies below /var/lib.
    """
    for word in (program, user, state):
        if not _WORD.fullmatch(word):
            raise ValueError(f"{word!r} cannot stand in a unit: use letters, digits and /._+@-")
    path = PurePosixPath(state)
    if _STATE_ROOT not in path.parents or ".." in path.parts:
        raise ValueError(f"{state}: the service's directory must lie below {_STATE_ROOT}")
    settings = {
        "ExecStart": f"{program} run --state-dir {state}",
        "User": user,
        "StateDirectory": str(path.relative_to(_STATE_ROOT)),
    }
    for name, value in settings.items():
        lines = re.findall(rf"^{name}=.*$", unit, flags=re.MULTILINE)
        if len(lines) != 1:
            raise ValueError(f"the unit has {len(lines)} lines of {name}=")
        unit = unit.replace(lines[0], f"{name}={value}")
    return unit
