"""Runs the command line again and again, each time in a fresh process that dies at a named point.

A program of its own: it reads one JSON object per line, `{"point": name or null, "args": […]}`,
and answers with `{"status": …, "output": …}`; the status is negative for a signal. Everything
heavy is imported once, before the first fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from typing import Any

import splitfrozen_edge.http.client
import splitfrozen_edge.model.opening
import splitfrozen_edge.pushing.file  # noqa: F401
from splitfrozen_edge.cli import main
from splitfrozen_edge.outbox import points


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Fork, run, wait."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            work(order["point"], order["args"])
        _, status = os.waitpid(child, 0)
        output.seek(0)
        told = output.read().decode("utf-8", "replace")
    return {"status": os.waitstatus_to_exitcode(status), "output": told}


def work(point: str | None, arguments: list[str]) -> None:
    """In the child: die at the point, or run to the end."""

    def kill(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    code: object = 99
    try:
        points.install(kill)
        main(arguments)
    except SystemExit as error:
        code = error.code
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 98)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
