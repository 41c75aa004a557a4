"""The daemon's steps against a real server: feeding, waiting, following what the server says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from splitfrozen_edge.daemon.joined import FeedOptions
from splitfrozen_edge.policy.quiet import QuietHours
from splitfrozen_edge.policy.rules import Policy
from splitfrozen_edge.state import StateDirectory
from splitfrozen_edge.status import read_status
from splitfrozen_edge.status_text import status_lines
from tests.edge.feeding import Stepped, rows
from tests.edge.protocol_server import Fault, ProtocolServer
from tests.edge.tiny_bundle import embedding, write_bundle

NewDaemon = Callable[..., Stepped]


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
def new_daemon(
    state: StateDirectory, path: Path, dataset: str, encoder_bundle: Path
) -> Iterator[NewDaemon]:
    made: list[Stepped] = []

    def make(**options: object) -> Stepped:
        feed = FeedOptions(bundle=str(encoder_bundle), max_wait=0, threads=1)
        made.append(Stepped(state, path, **({"options": feed} | options)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()


def exactly_once(server: ProtocolServer, dataset: str, count: int) -> None:
    found = server.example_ids(dataset)
    assert len(found) == len(set(found)) == count


def test_new_rows_are_computed_and_sent(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, path: Path
) -> None:
    daemon = new_daemon()
    daemon.turn()
    exactly_once(server, dataset, 20)
    with (path / "a.jsonl").open("a") as stream:
        stream.write(rows(20, 5))
    daemon.turn(5)
    exactly_once(server, dataset, 25)
    assert daemon.states == [("following", "")]


def test_a_heartbeat_tells_what_waits_and_why_but_no_paths_and_rows(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, path: Path
) -> None:
    server.script("PUT", *[Fault("before")] * 99)
    policy = Policy(quiet_hours=QuietHours.parse("22:00-06:30"))
    daemon = new_daemon(policy=policy)
    daemon.turn()
    server.datasets[dataset]["cut"] = 3
    daemon.turn(400)
    (path / "b.jsonl").write_text(rows(50, 5))
    daemon.turn(61)
    daemon.local = datetime(2026, 1, 1, 23)
    daemon.turn(400)
    first, last = server.beats[0], server.beats[-1]
    assert (first["datasets"], first["reasons"]) == ([dataset], [])
    assert (last["queued_examples"], last["queued_bytes"] > 0) == (20, True)
    assert last["reasons"] == ["quiet hours are 22:00-06:30", "reviews: failed"]
    assert "takes classification at cut 3" in daemon.states[0][1]


def test_heartbeats_come_as_often_as_the_server_asks(
    new_daemon: NewDaemon, server: ProtocolServer
) -> None:
    server.next_beat = 100
    daemon = new_daemon()
    for _ in range(100):
        daemon.turn(10)
    assert 10 <= len(server.beats) <= 13


def test_a_server_without_heartbeats_is_fed_all_the_same(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str
) -> None:
    server.next_beat = None
    daemon = new_daemon()
    daemon.turn()
    exactly_once(server, dataset, 20)
    assert daemon.codes == []


def test_a_sealed_dataset_is_computed_for_no_more_and_says_so(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, path: Path
) -> None:
    daemon = new_daemon()
    daemon.turn()
    server.datasets[dataset]["sealed"] = True
    daemon.turn(61)
    (path / "b.jsonl").write_text(rows(50, 5))
    daemon.turn(10)
    assert daemon.states[0][0] == "sealed"
    assert "reviews: the dataset takes no more examples; nothing is computed for it" in daemon.said
    assert daemon.outbox.queued(dataset) == (0, 0)
    server.datasets[dataset]["sealed"] = False
    daemon.turn(61)
    daemon.turn(1)
    exactly_once(server, dataset, 25)


def test_a_dataset_that_is_deleted_and_made_again_gets_all_rows_again(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, path: Path
) -> None:
    daemon = new_daemon()
    daemon.turn()
    server.datasets[dataset]["name"] = "old"
    removed = server.datasets.pop(dataset)
    daemon.turn(61)
    daemon.turn(1)
    for _ in range(20):
        daemon.turn(61)
    assert daemon.states[0][0] == "deleted"
    assert sum("is not on the server" in line for line in daemon.said) == 1
    server.datasets["ds_new"] = removed | {"id": "ds_new", "name": "reviews"}
    server.shards["ds_new"] = {}
    daemon.turn(61)
    daemon.turn(1)
    exactly_once(server, "ds_new", 20)


def test_while_the_server_is_away_rows_go_on_into_the_outbox(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, path: Path
) -> None:
    daemon = new_daemon()
    daemon.turn()
    for method in ("GET", "POST", "PUT"):
        server.script(method, *[Fault("before")] * 10_000)
    for number in range(1, 4):
        (path / f"{number}.jsonl").write_text(rows(100 * number, 7))
        daemon.turn(86_400)
    assert daemon.outbox.queued(dataset)[1] == 21
    assert "server" in daemon.codes
    tries = len(server.requests)
    for _ in range(60):
        daemon.turn(60)
    assert len(server.requests) - tries < 60  # an hour of an outage: tried, but not hammered
    server.faults.clear()
    daemon.turn(700)
    exactly_once(server, dataset, 41)
    assert daemon.said.count("the server answers again") == 1


def test_a_label_that_was_new_a_moment_ago_needs_no_server(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, path: Path
) -> None:
    daemon = new_daemon()
    daemon.turn()
    for method in ("GET", "POST", "PUT"):
        server.script(method, *[Fault("before")] * 100)
    (path / "b.jsonl").write_text(rows(50, 7))
    daemon.turn(1)
    assert daemon.outbox.queued(dataset)[1] == 7


def test_a_restart_without_a_server_goes_on_computing(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, path: Path
) -> None:
    first = new_daemon()
    first.turn()
    first.close()
    for method in ("GET", "POST", "PUT"):
        server.script(method, *[Fault("before")] * 100)
    (path / "b.jsonl").write_text(rows(50, 7))
    second = new_daemon()
    second.turn()
    assert second.outbox.queued(dataset)[1] == 7


def test_a_daemon_that_began_without_a_server_works_as_soon_as_it_answers(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str
) -> None:
    for method in ("GET", "POST"):
        server.script(method, *[Fault("before")] * 1000)
    daemon = new_daemon()
    for _ in range(60):
        daemon.turn(60)
    assert daemon.states[0][0] == "failed"
    server.faults.clear()
    daemon.now += 300  # the longest pause between two tries at a server
    daemon.service.courier.step()
    daemon.turn()
    exactly_once(server, dataset, 20)


def test_a_refused_token_is_said_once_and_tried_rarely(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str
) -> None:
    daemon = new_daemon()
    daemon.turn()
    server.script("POST", *[Fault("refuse", 401, "unauthorized")] * 99)
    for _ in range(60):
        daemon.turn(60)
    assert 80 < len(server.faults["POST"]) < 99
    assert sum("unauthorized" in line for line in daemon.said) == 1
    assert "server" in daemon.codes


def test_a_replaced_bundle_computes_what_was_refused_again(
    tmp_path: Path, state: StateDirectory, path: Path, server: ProtocolServer,
    encoder_bundle: Path, dataset: str,
) -> None:  # fmt: skip
    server.bundles = {}
    server.publish(encoder_bundle)
    daemon = Stepped(state, path)
    server.script("PUT", Fault("refuse", 503, "unavailable"))
    daemon.turn()
    other = write_bundle(tmp_path / "other", table=embedding(seed=7))
    server.bundles = {}
    newer = server.publish(other)
    for _ in range(4):
        daemon.turn(700)
    exactly_once(server, dataset, 20)
    assert {shard.bundle for shard in server.shards[dataset].values()} == {newer}
    daemon.close()


def test_bad_rows_are_shown_and_stop_no_other(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, path: Path, state: StateDirectory
) -> None:
    server.datasets[dataset] |= {"open_labels": False, "labels": ["good", "bad"]}
    bad = [
        "nonsense",
        '{"text": 7, "label": "good"}',
        '{"text": "a", "label": "strange"}',
        '{"x": 1}',
    ]
    (path / "b.jsonl").write_text("\n".join(bad) + "\n" + rows(50, 2))
    daemon = new_daemon()
    daemon.turn()
    exactly_once(server, dataset, 22)
    (watch,) = read_status(state)["watched"]
    (found,) = [item for item in watch["files"] if item["path"].endswith("b.jsonl")]
    lines = {line: reason for line, reason in found["bad_lines"]}
    assert (found["rows"], found["bad"], sorted(lines)) == (2, 4, [1, 2, 3, 4])
    assert lines[1].startswith("is not JSON")
    assert lines[2] == "text: is a number, not text"
    assert lines[3] == "label: 'strange' is not a label of the dataset: good, bad"
    assert "the columns are: x" in lines[4]


def test_the_policy_holds_rows_and_says_why(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str
) -> None:
    daemon = new_daemon(policy=Policy(quiet_hours=QuietHours.parse("22:00-06:30")))
    daemon.local = datetime(2026, 1, 1, 23)
    daemon.turn()
    daemon.turn(60)
    assert (daemon.codes, daemon.outbox.queued()) == (["quiet_hours"], (0, 0))
    assert daemon.service.document()["reasons"][0]["until"] == "2026-01-02T06:30"
    daemon.local = datetime(2026, 1, 2, 6, 30)
    daemon.turn(60)
    exactly_once(server, dataset, 20)
    assert daemon.codes == []


def test_a_metered_network_holds_uploads_and_heartbeats_but_no_computing(
    new_daemon: NewDaemon,
    server: ProtocolServer,
    dataset: str,
    tmp_path: Path,
    path: Path,
) -> None:
    route = tmp_path / "proc" / "net" / "route"
    route.parent.mkdir(parents=True)
    columns = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT"
    policy = Policy(only_unmetered=True, metered_interfaces=("wwan0",))
    daemon = new_daemon(policy=policy, root=tmp_path)
    daemon.turn()  # the device knows its dataset and has the bundle
    heard = len(server.requests)
    route.write_text(f"{columns}\nwwan0 00000000 0100A8C0 0003 0 0 700 00000000 0 0 0\n")
    daemon.gate.take(Policy())
    daemon.gate.take(policy)
    (path / "b.jsonl").write_text(rows(50, 5))
    daemon.turn(60)
    daemon.turn(120)
    assert daemon.outbox.queued(dataset)[1] == 5
    assert (len(server.requests), daemon.codes) == (heard, ["metered"])
    route.write_text(f"{columns}\nwlan0 00000000 0100A8C0 0003 0 0 600 00000000 0 0 0\n")
    daemon.turn(60)
    exactly_once(server, dataset, 25)


def test_the_model_is_let_go_when_nothing_comes(
    new_daemon: NewDaemon, server: ProtocolServer, path: Path, dataset: str
) -> None:
    daemon = new_daemon()
    daemon.turn()
    (follower,) = daemon.service._followers
    assert follower._sink is not None
    daemon.turn(301)
    assert follower._sink is None
    (path / "b.jsonl").write_text(rows(50, 5))
    daemon.turn(30)
    exactly_once(server, dataset, 25)


def test_a_few_rows_cost_no_new_look_at_the_whole_bundle(
    new_daemon: NewDaemon, path: Path, encoder_bundle: Path, dataset: str, server: ProtocolServer
) -> None:
    daemon = new_daemon()
    daemon.turn()
    weights = encoder_bundle / "device.onnx.data"
    weights.rename(weights.with_name("away"))  # a hash of it would fail
    try:
        (path / "b.jsonl").write_text(rows(50, 5))
        daemon.turn(30)
    finally:
        weights.with_name("away").rename(weights)
    exactly_once(server, dataset, 25)


def test_a_file_that_rests_is_looked_at_less_and_less(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    delays = [daemon.service.tend() for _ in range(12)]
    assert delays[0] == 2.0
    assert delays[-1] == 30.0
    assert delays == sorted(delays)


def test_rows_that_wait_for_the_policy_keep_no_device_awake(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(policy=Policy(quiet_hours=QuietHours.parse("22:00-06:30")))
    daemon.local = datetime(2026, 1, 1, 23)
    delays = [daemon.service.tend() for _ in range(12)]
    assert daemon.service.document()["datasets"][0]["waiting_rows"] == 20
    assert delays[-1] == 30.0


def test_status_shows_the_daemon_for_people_and_programs(
    new_daemon: NewDaemon, state: StateDirectory, path: Path, dataset: str
) -> None:
    daemon = new_daemon(policy=Policy(quiet_hours=QuietHours.parse("22:00-06:30")))
    daemon.turn()
    daemon.local = datetime(2026, 1, 1, 23)
    (path / "b.jsonl").write_text("nonsense\n" + rows(50, 1))
    daemon.turn(30)
    daemon.service.look_on()
    status = read_status(state)
    assert status["daemon"]["running"] is True
    assert status["server"]["reachable"] is True
    text = "\n".join(status_lines(json.loads(json.dumps(status)), status["daemon"]["updated_at"]))
    assert "daemon   running for 0 seconds" in text
    assert "waits    quiet hours are 22:00-06:30, until 06:30" in text
    assert "dataset  reviews: 20 sent, 0 examples wait" in text
    assert f"watched  {path} for reviews: 2 files" in text


def test_now_json_is_written_when_something_changes_and_else_once_a_minute(
    new_daemon: NewDaemon, path: Path
) -> None:
    daemon = new_daemon()
    daemon.turn()
    for _ in range(6 * 60):
        daemon.turn(10)
        daemon.service.look_on()
    assert daemon.service._now.writes <= 64


def test_a_full_outbox_leaves_rows_in_their_files_until_there_is_room(
    new_daemon: NewDaemon, server: ProtocolServer, dataset: str, path: Path
) -> None:
    server.script("PUT", *[Fault("before")] * 99)
    daemon = new_daemon(outbox_bytes=100)  # less than one shard: the first one is let in
    daemon.turn()
    assert daemon.outbox.queued() == (1, 20)
    with (path / "a.jsonl").open("a") as stream:
        stream.write(rows(20, 5))
    daemon.turn(5)
    assert daemon.outbox.queued() == (1, 20)
    assert daemon.codes == ["dataset_waiting", "server"]
    assert "reviews: no room in the outbox or on its disk; rows wait in their files" in daemon.said
    server.faults["PUT"].clear()
    daemon.turn(400)
    daemon.turn(5)
    exactly_once(server, dataset, 25)
    assert daemon.codes == []


def test_the_log_tells_bad_lines_once_per_file_and_rotations(
    new_daemon: NewDaemon, path: Path
) -> None:
    log = path / "a.jsonl"
    log.write_text(rows(0, 3) + "{nonsense}\n" + '{"text": "cut\n' + rows(3, 3))
    (path / "notes.txt").write_text("a text")
    daemon = new_daemon()
    daemon.turn()
    told = [line for line in daemon.said if line.startswith(f"{log}:")]
    assert len(told) == 1 and told[0].startswith(f"{log}:4: is not JSON")
    assert told[0].endswith("(and 1 more bad lines, see status)")
    assert daemon.service.document()["datasets"][0]["unread"] == {".txt": 1}
    log.rename(path / "a.jsonl.1")
    log.write_text(rows(20, 3))
    daemon.turn(5)
    assert f"{log} was rotated to {log}.1: read to its end there" in daemon.said
    log.write_text(rows(40, 1))
    daemon.turn(5)
    assert f"{log} was cut or written anew: read from its start" in daemon.said
