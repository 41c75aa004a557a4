"""`python -m tests.server.dying_server POINT serve …`: a server that is killed at a named point.

rows      the rows are gone and committed, no byte is deleted
blob      the first blob is deleted
derived   all blobs are deleted, the worker's copies are not
finish    every byte is deleted, the database does not know it yet
answer    all is done, the answer is not sent
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from splitfrozen_server import erasure
from splitfrozen_server.cli import main


def die(*arguments: Any, **named: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL was survived")


def then_die(work: Callable[..., Any]) -> Callable[..., NoReturn]:
    def wrapped(*arguments: Any, **named: Any) -> NoReturn:
        work(*arguments, **named)
        die()

    return wrapped


POINTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "rows": ("_erase_blob", die),
    "blob": ("_erase_blob", then_die(erasure._erase_blob)),
    "derived": ("erase_derived", die),
    "finish": ("finish", die),
    "answer": ("summary", die),
}

if __name__ == "__main__":
    name, replacement = POINTS[sys.argv.pop(1)]
    assert hasattr(erasure, name)
    setattr(erasure, name, replacement)
    main()
