"""`watch` killed at random moments while a writer appends: each row exactly once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from splitfrozen_edge.state import StateDirectory
from tests.edge.feeding import rows, running, until
from tests.edge.protocol_server import Fault, ProtocolServer


class Writer:
    """Appends rows, also in two halves, and rotates the file now and then."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._write, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def rotate(self) -> None:
        """By renaming, to a name that is watched as well."""
        if self.path.exists():
            self.path.rename(self.path.with_name(f"old-{self.count}.jsonl"))

    def _write(self, stop: threading.Event) -> None:
        while not stop.wait(0.03):
            text = "".join(
                f'{{"text": "row {self.count + i}", "label": "good"}}\n' for i in range(4)
            )
            self.count += 4
            with self.path.open("a") as stream:
                stream.write(text[:70])
                stream.flush()
                time.sleep(0.005)
                stream.write(text[70:])


@pytest.mark.parametrize(
    "kills", [4, pytest.param(30, marks=pytest.mark.long)], ids=["few", "many"]
)
def test_a_killed_watch_ends_with_each_row_exactly_once(
    tmp_path: Path, state: StateDirectory, server: ProtocolServer, encoder_bundle: Path, kills: int
) -> None:
    dataset = server.add_dataset("reviews", "classification")
    folder = tmp_path / "in"
    folder.mkdir()
    writer = Writer(folder / "a.jsonl")
    command = ("watch", str(folder), "--dataset", "reviews", "--bundle", str(encoder_bundle),
               "--max-wait", "0", "--threads", "1")  # fmt: skip
    moments = random.Random(5)
    for number in range(kills):
        server.requests.clear()
        server.script("PUT", *[Fault(moments.choice(["after", "before", "refuse"]))] * 2)
        with running(state, *command), writer.at_work():
            until(lambda: server.requests)
            time.sleep(moments.uniform(0, 1.5))
        if number % 3 == 2:
            writer.rotate()
    server.faults.clear()
    with running(state, *command):
        until(lambda: len(server.example_ids(dataset)) >= writer.count)
    found = server.example_ids(dataset)
    assert len(found) == len(set(found)) == writer.count


def test_watch_agrees_with_push_about_the_same_file(
    tmp_path: Path, state: StateDirectory, server: ProtocolServer, encoder_bundle: Path
) -> None:
    """Occurrences are counted alike: what one has sent, the other does not send again."""
    from splitfrozen_edge.connect import open_client
    from splitfrozen_edge.pushing.file import PushRequest, push_file

    dataset = server.add_dataset("reviews", "classification")
    data = tmp_path / "a.jsonl"
    data.write_text(rows(0, 30) + rows(0, 10))
    client = open_client(state.enrolment(), 5, threading.Event())
    request = PushRequest(data, "reviews", bundle=str(encoder_bundle), threads=1)
    assert push_file(request, state, client).uploaded_examples == 40
    command = ("watch", str(data), "--dataset", "reviews", "--bundle", str(encoder_bundle))
    with data.open("a") as stream:
        stream.write(rows(0, 10))
    with running(state, *command, "--max-wait", "0", "--threads", "1"):
        until(lambda: len(server.example_ids(dataset)) == 50)
    assert push_file(request, state, client).examples == 0
    client.close()
