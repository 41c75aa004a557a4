"""Mishaps of a daemon that follows files: no row is lost, none becomes two examples."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from splitfrozen_edge.daemon.joined import FeedOptions, Joined
from splitfrozen_edge.policy.quiet import QuietHours
from splitfrozen_edge.policy.rules import Policy
from splitfrozen_edge.state import StateDirectory
from splitfrozen_edge.status import read_status
from tests.edge.feeding import Stepped, rows
from tests.edge.protocol_server import Fault, ProtocolServer
from tests.edge.tiny_bundle import embedding, write_bundle

NewDaemon = Callable[..., Stepped]
AWAY = Fault("refuse", 503, "unavailable")


@pytest.fixture
def dataset(server: ProtocolServer) -> str:
    return server.add_dataset("reviews", "classification")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text(rows(0, 20))
    return folder


@pytest.fixture
def feed(encoder_bundle: Path) -> FeedOptions:
    return FeedOptions(bundle=str(encoder_bundle), max_wait=0, threads=1)


@pytest.fixture
def new_daemon(state: StateDirectory, path: Path, feed: FeedOptions) -> Iterator[NewDaemon]:
    made: list[Stepped] = []

    def make(**options: object) -> Stepped:
        made.append(Stepped(state, path, **({"options": feed} | options)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()


def exactly_once(server: ProtocolServer, dataset: str, count: int) -> None:
    found = server.example_ids(dataset)
    assert len(found) == len(set(found)) == count


def test_equal_rows_of_two_files_that_are_read_together_are_one_example(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, path: Path
) -> None:
    shutil.copy(path / "a.jsonl", path / "b.jsonl")
    daemon = new_daemon()
    daemon.turn()
    assert daemon.states == [("following", "")]
    exactly_once(server, dataset, 20)


def test_a_dataset_that_is_made_again_in_quiet_hours_gets_each_row_once(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str
) -> None:
    daemon = new_daemon(policy=Policy(quiet_hours=QuietHours.parse("22:00-06:30")))
    daemon.turn()
    removed = server.datasets.pop(dataset)
    for _ in range(3):
        daemon.turn(61)
    assert daemon.states[0][0] == "deleted"
    daemon.local = datetime(2026, 1, 1, 23)
    server.datasets["ds_new"] = removed | {"id": "ds_new", "name": "reviews"}
    server.shards["ds_new"] = {}
    for _ in range(12):
        daemon.turn(61)
    daemon.local = datetime(2026, 1, 2, 7)
    for _ in range(3):
        daemon.turn(61)
    exactly_once(server, "ds_new", 20)


def test_a_path_that_joined_a_dataset_by_name_and_by_id_counts_its_rows_once(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, path: Path, feed: FeedOptions
) -> None:
    class Twice:
        def signature(self) -> object:
            return "other"

        def load(self) -> tuple[list[Joined], Policy]:
            return [Joined("reviews", path, feed), Joined(dataset, path, feed)], Policy()

    daemon = new_daemon()
    daemon.service._settings = Twice()
    daemon.turn()
    with (path / "a.jsonl").open("a") as stream:
        stream.write(rows(50, 5))
    daemon.turn(10)
    daemon.turn(10)
    exactly_once(server, dataset, 25)
    assert [name for name, _ in daemon.states] == ["following", "failed"]
    assert "is joined twice to this dataset: leave one" in daemon.states[1][1]


def test_rows_whose_body_rotted_on_the_disk_are_computed_again(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, state: StateDirectory
) -> None:
    server.script("PUT", AWAY)
    daemon = new_daemon()
    daemon.turn()
    database = sqlite3.connect(state.path / "outbox.sqlite3")
    database.execute("UPDATE shards SET body = zeroblob(size)")
    database.commit()
    database.close()
    daemon.turn(700)
    daemon.turn(10)
    exactly_once(server, dataset, 20)
    assert "20 examples were unreadable on the disk: read again" in daemon.said


def test_rows_that_a_repair_of_the_outbox_lost_are_computed_again(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, state: StateDirectory
) -> None:
    server.script("PUT", AWAY)
    daemon = new_daemon()
    daemon.turn()
    assert daemon.outbox.queued(dataset)[1] == 20
    daemon.close()
    (state.path / "outbox.sqlite3").write_bytes(b"\xff" * 8192)
    read_status(state)  # whoever opens it first repairs it
    daemon = new_daemon()
    daemon.turn()
    daemon.turn(700)
    exactly_once(server, dataset, 20)
    assert not list(state.path.glob("*-repaired"))


def test_a_damaged_page_ends_the_daemon_and_the_next_one_repairs_it(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, state: StateDirectory, path: Path
) -> None:
    daemon = new_daemon()
    daemon.turn()
    query = "SELECT rootpage FROM sqlite_master WHERE name = 'examples'"
    ((page,),) = daemon.outbox._database.execute(query)
    daemon.close()
    with (state.path / "outbox.sqlite3").open("r+b") as stream:
        stream.seek((page - 1) * 4096)
        stream.write(b"\xff" * 4096)
    daemon = new_daemon()
    (path / "b.jsonl").write_text(rows(50, 5))
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        daemon.turn(10)
    daemon.close()
    daemon = new_daemon()
    assert "was damaged" in (daemon.outbox.notice or "")
    daemon.turn(20)
    daemon.turn(20)
    exactly_once(server, dataset, 25)


def test_a_shard_whose_receipt_cannot_be_noted_is_not_sent_again_and_again(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str
) -> None:
    daemon = new_daemon()
    daemon.outbox._database.execute(
        "CREATE TEMP TRIGGER full BEFORE UPDATE ON shards "
        "BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
    )
    for _ in range(10):
        daemon.turn(30)
    assert len(server.bodies()) == 1
    assert daemon.codes == ["disk"]
    assert sum("disk is full" in line for line in daemon.said) == 1
    daemon.outbox._database.execute("DROP TRIGGER full")
    daemon.turn(700)
    exactly_once(server, dataset, 20)
    assert daemon.codes == []


def test_a_bundle_that_was_replaced_holds_up_nothing_of_the_new_one(
    tmp_path: Path, state: StateDirectory, path: Path, server: ProtocolServer,
    encoder_bundle: Path, dataset: str,
) -> None:  # fmt: skip
    server.bundles = {}
    server.publish(encoder_bundle)
    daemon = Stepped(state, path)
    server.script("PUT", AWAY, AWAY)
    daemon.turn()
    server.bundles = {}
    newer = server.publish(write_bundle(tmp_path / "other", table=embedding(seed=7)))
    daemon.outbox.forget_bundle_of(dataset)
    (path / "b.jsonl").write_text(rows(50, 5))
    daemon.turn(10)
    assert daemon.outbox.queued(dataset)[0] == 2  # one of either bundle
    daemon.turn(700)
    exactly_once(server, dataset, 5)
    assert "server" not in daemon.codes
    daemon.turn(61)
    exactly_once(server, dataset, 25)
    assert {shard.bundle for shard in server.shards[dataset].values()} == {newer}
    daemon.close()


def test_an_answer_that_is_not_of_the_protocol_ends_no_daemon(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str
) -> None:
    server.script("GET", Fault("refuse", 200, "unavailable"))
    daemon = new_daemon()
    daemon.turn()
    assert "the server's answer is not of the protocol: id" in daemon.states[0][1]
    daemon.turn(700)
    exactly_once(server, dataset, 20)


def test_nothing_at_all_is_sent_over_a_metered_network(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, tmp_path: Path
) -> None:
    route = tmp_path / "proc" / "net" / "route"
    route.parent.mkdir(parents=True)
    columns = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT"
    route.write_text(f"{columns}\nwwan0 00000000 0100A8C0 0003 0 0 700 00000000 0 0 0\n")
    policy = Policy(only_unmetered=True, metered_interfaces=("wwan0",))
    daemon = new_daemon(policy=policy, root=tmp_path)
    daemon.gate.take(Policy())
    daemon.gate.take(policy)
    for _ in range(3):
        daemon.turn(60)
    assert server.requests == []
    assert daemon.states[0][0] == "waiting"
    route.write_text(f"{columns}\nwlan0 00000000 0100A8C0 0003 0 0 600 00000000 0 0 0\n")
    daemon.turn(60)
    exactly_once(server, dataset, 20)


def test_a_row_that_is_not_finite_is_shown_with_its_own_line(
    tmp_path: Path, state: StateDirectory, path: Path, server: ProtocolServer, dataset: str
) -> None:
    vocabulary = tokenizers.Tokenizer.from_file(
        str(write_bundle(tmp_path / "whole") / "tokenizer.json")
    )
    table = embedding()
    only = set(vocabulary.encode("!").ids) - set(vocabulary.encode(rows(0, 20)).ids)
    table[sorted(only)] = np.nan
    with (path / "a.jsonl").open("a") as stream:
        stream.write('{"text": "!", "label": "good"}\n' + rows(50, 5))
    bundle = write_bundle(tmp_path / "nan", table=table)
    server.publish(bundle)
    daemon = Stepped(state, path, options=FeedOptions(bundle=str(bundle), max_wait=0, threads=1))
    daemon.turn()
    daemon.close()
    exactly_once(server, dataset, 25)
    ((file,),) = (watch["files"] for watch in read_status(state)["watched"])
    assert file["bad_lines"] == ((21, "an activation is NaN or infinite; it is not sent"),)
