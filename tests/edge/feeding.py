"""Daemons for tests: a real one in a process of its own, and one whose steps a test takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from splitfrozen_edge.connect import open_client
from splitfrozen_edge.daemon.joined import FeedOptions, Joined
from splitfrozen_edge.daemon.service import Service
from splitfrozen_edge.daemon.settings import FixedSettings
from splitfrozen_edge.outbox.room import OUTBOX_BYTES
from splitfrozen_edge.policy.gate import PolicyGate
from splitfrozen_edge.policy.readings import Readers
from splitfrozen_edge.policy.rules import Policy
from splitfrozen_edge.state import StateDirectory
from splitfrozen_edge.watching.ledger import Ledger

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def rows(first: int, count: int, label: str = "good") -> str:
    """Lines of a labelled .jsonl; every fifth text repeats an earlier one."""
    texts = (f"the bird {i if i % 5 else i // 10} sat" for i in range(first, first + count))
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text in texts)


@contextmanager
def running(
    state: StateDirectory, *arguments: str, **extra: str
) -> Iterator[subprocess.Popen[str]]:
    """A command as a process; killed at the end if it still runs."""
    program = [sys.executable, "-m", "splitfrozen_edge", *arguments]
    with subprocess.Popen(
        [*program, "--state-dir", str(state.path)],
        env={**ENVIRONMENT, **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something that happens soon; an error if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


class Stepped:
    """A daemon over one joined path whose steps and time a test takes."""

    def __init__(
        self,
        state: StateDirectory,
        path: Path,
        *,
        dataset: str = "reviews",
        policy: Policy | None = None,
        options: FeedOptions | None = None,
        root: Path = Path("/"),
        outbox_bytes: int = OUTBOX_BYTES,
    ) -> None:
        self.now = 0.0
        self.local = datetime(2026, 1, 1, 12)
        self.said: list[str] = []
        self.stop, self.halt = threading.Event(), threading.Event()
        self.state = state
        self.outbox = state.outbox()
        self.ledger = Ledger(state.path / "watch.sqlite3")
        self.client = open_client(state.enrolment(), 0, self.stop)
        policy = policy or Policy()
        readers = Readers(root, clock=lambda: self.local, ask=lambda: None)
        self.gate = PolicyGate(policy, readers, self.halt, clock=lambda: self.now)
        joined = Joined(dataset, path, options or FeedOptions(max_wait=0, threads=1))
        self.service = Service(
            state,
            self.outbox,
            self.ledger,
            self.client,
            self.gate,
            stop=self.stop,
            halt=self.halt,
            settings=FixedSettings(joined, policy),
            outbox_bytes=outbox_bytes,
            say=self.said.append,
            clock=lambda: self.now,
        )

    def turn(self, seconds: float = 0.0) -> None:
        """Both threads' work, one after the other, after some time."""
        self.now += seconds
        self.service.tend()
        for _ in range(4):
            if self.service.courier.step() > 0:
                break

    def close(self) -> None:
        """As the process does at its end."""
        self.client.close()
        self.ledger.close()
        self.outbox.close()

    @property
    def states(self) -> list[tuple[str, str]]:
        """(state, message) of every dataset."""
        return [(d["state"], d["message"]) for d in self.service.document()["datasets"]]

    @property
    def codes(self) -> list[str]:
        """Why it waits."""
        return [reason["code"] for reason in self.service.document()["reasons"]]
