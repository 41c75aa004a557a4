"""`python -m tests.edge.dying_command POINT forget …`: an edge command that is killed at a point.

before NAME   just before a function of ours runs     after NAME   just after it returned
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any, NoReturn

from splitfrozen_edge.cli import main

POINTS = {
    "fetched": ("splitfrozen_edge.identity.rotation", "_fetch"),
    "used": ("splitfrozen_edge.identity.rotation", "_use"),
    "erased-there": ("splitfrozen_edge.identity.forgetting", "_erase_there"),
    "deleted": ("splitfrozen_edge.identity.forgetting", "_delete"),
    "datasets": ("splitfrozen_edge.identity.forgetting", "_forget_datasets"),
}


def wrap(when: str, point: str) -> None:
    """Replace the function behind a point by one that ends the process."""
    place, name = POINTS[point]
    module = import_module(place)
    work = getattr(module, name)

    def dying(*arguments: Any, **named: Any) -> NoReturn:
        if when == "after":
            work(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("SIGKILL was survived")

    setattr(module, name, dying)


if __name__ == "__main__":
    _, when, point, *sys.argv[1:] = sys.argv
    wrap(when, point)
    main()
