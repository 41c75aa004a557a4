"""What `status` says, to people and to programs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from splitfrozen_edge.daemon.joined import FeedOptions, Joined, join, leave, load_joined
from splitfrozen_edge.daemon.notify import Notifier
from splitfrozen_edge.daemon.nowfile import NowFile, read_now
from splitfrozen_edge.policy.rules import Policy
from splitfrozen_edge.policy.stored import policy_document
from splitfrozen_edge.state import StateDirectory, StateError
from splitfrozen_edge.status import read_status
from splitfrozen_edge.status_text import status_lines

NOW = 1_800_000_000.0
KEYS = ["bundles", "daemon", "datasets", "device", "following", "joined", "policy", "queued_bytes",
        "server", "state_dir", "watched"]  # fmt: skip


def daemon(**changes: Any) -> dict[str, Any]:
    found = {
        "running": True, "pid": 7, "started_at": NOW - 7200, "updated_at": NOW - 5,
        "last_heartbeat": NOW - 30, "last_upload": None, "ended_at": None,
        "reasons": [], "warnings": [],
    }  # fmt: skip
    return found | changes


def text(**changes: Any) -> str:
    status: dict[str, Any] = {
        "state_dir": "/s", "device": None, "server": None, "daemon": None, "joined": [],
        "following": [], "queued_bytes": 0, "datasets": [], "watched": [], "bundles": [],
        "policy": policy_document(Policy()),
    }  # fmt: skip
    return "\n".join(status_lines(status | changes, NOW))


def test_a_new_device_says_what_to_do(tmp_path: Path) -> None:
    status = read_status(StateDirectory(tmp_path / "none"))
    assert sorted(status) == KEYS
    shown = "\n".join(status_lines(status, NOW))
    assert "device   not enrolled: run splitfrozen-edge enroll" in shown
    assert "server   not asked" in shown
    assert "daemon   not running; joined datasets: none" in shown
    assert "policy   no limits" in shown
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ({"reachable": True, "since": NOW - 9999, "message": ""}, "answered 30 seconds ago"),
        ({"reachable": False, "since": NOW - 7300, "message": "cannot reach"},
         "away for 2 hours: cannot reach"),
        ({"reachable": None, "since": None, "message": ""}, "not asked"),
    ],
)  # fmt: skip
def test_the_server_is_shown_as_last_known(server: dict[str, Any], expected: str) -> None:
    assert f"server   {expected}" in text(server=server, daemon=daemon())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "running for 2 hours (process 7)"),
        ({"running": False, "ended_at": NOW - 180}, "not running; it ended 3 minutes ago"),
        ({"running": False, "updated_at": NOW - 86400 * 3}, "not running; it died 3 days ago"),
    ],
)
def test_the_daemon_runs_has_ended_or_died(changes: dict[str, Any], expected: str) -> None:
    assert f"daemon   {expected}" in text(daemon=daemon(**changes))


def test_every_reason_says_what_it_holds_and_until_when() -> None:
    reasons = [
        {"code": "quiet_hours", "message": "quiet hours are 22:00-06:30",
         "blocks": ["compute", "upload"], "until": "2026-01-02T06:30"},
        {"code": "dataset_sealed", "message": "d: sealed", "blocks": [], "until": None},
    ]  # fmt: skip
    shown = text(daemon=daemon(reasons=reasons, warnings=["no sensor"]))
    assert "waits    quiet hours are 22:00-06:30, until 06:30 (computes nothing and sends" in shown
    assert "waits    d: sealed\nwarning  no sensor" in shown


def test_the_policy_is_one_line() -> None:
    policy = {
        "only_unmetered": True, "metered_interfaces": ["wwan0"], "only_charging": True,
        "pause_above_temp": 70.0, "max_rate": 125_000, "cpu_share": 0.5,
        "quiet_hours": "22:00-06:30",
    }  # fmt: skip
    assert text(policy=policy).splitlines()[4] == (
        "policy   only unmetered (not wwan0), only charging, pause above 70 °C, "
        "at most 0.1 MB/s, 50% of a core, quiet 22:00-06:30"
    )


def test_bad_lines_and_unreadable_files_are_shown_under_their_path() -> None:
    lines = [(number, "is not JSON") for number in range(1, 6)]
    file = {"path": "/d/a.jsonl", "size": 200, "offset": 100, "rows": 9, "bad": 5,
            "bad_lines": lines}  # fmt: skip
    following = {"dataset": "d", "id": "ds_1", "path": "/d", "state": "following", "message": "",
                 "waiting_rows": 2, "queued_rows": 9,
                 "problems": {"/d/x": "cannot be read: Permission denied"}}  # fmt: skip
    shown = text(
        watched=[{"dataset": "ds_1", "path": "/d", "files": [file]}], following=[following]
    )
    assert (
        "watched  /d for d: 1 file, 9 rows, 50% read, 5 bad lines, 2 rows about to be taken\n"
        "         /d/a.jsonl:1: is not JSON\n"
        "         /d/a.jsonl:2: is not JSON\n"
        "         /d/a.jsonl:3: is not JSON\n"
        "         /d/a.jsonl: 2 more bad lines (--format json)\n"
        "         /d/x cannot be read: Permission denied"
    ) in shown


def test_a_broken_policy_is_shown_where_one_looks_for_it(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text('{"cpu_share": 7}')
    shown = "\n".join(status_lines(read_status(StateDirectory(tmp_path)), NOW))
    assert "policy.json: cpu_share is a number from 0.01 to 1; not 7" in shown


def test_a_now_file_of_another_process_of_that_number_is_not_taken_for_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        NowFile(tmp_path).show({"reasons": []})
        document = json.loads((tmp_path / "now.json").read_text())
        found = read_now(tmp_path)
        assert found is not None
        assert found["running"] is True
        (tmp_path / "now.json").write_text(json.dumps(document | {"pid": process.pid}))
        found = read_now(tmp_path)
        assert found is not None
        assert found["running"] is False
        process.communicate(b"\n")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_now_file_is_as_none(tmp_path: Path, damage: str) -> None:
    (tmp_path / "now.json").write_text(damage)
    assert read_now(tmp_path) is None


def test_joined_datasets_keep_their_order_and_options(tmp_path: Path) -> None:
    options = FeedOptions(labels=("a", "b"), fields={"text": "t"}, texts=True)
    assert join(tmp_path, Joined("one", Path("/1"))) is False
    assert join(tmp_path, Joined("two", Path("/2"))) is False
    assert join(tmp_path, Joined("one", Path("/3"), options)) is True
    assert load_joined(tmp_path) == [Joined("one", Path("/3"), options), Joined("two", Path("/2"))]
    assert leave(tmp_path, "one").path == Path("/3")
    assert [item.dataset for item in load_joined(tmp_path)] == ["two"]
    (tmp_path / "joined.json").write_text('{"datasets": [{}]}')
    with pytest.raises(StateError, match=r"joined\.json is damaged"):
        load_joined(tmp_path)


def test_an_abstract_socket_hears_a_status_once() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stream:
        stream.bind("")  # an abstract name of the kernel's choice
        name = "@" + stream.getsockname()[1:].decode()
        notifier = Notifier(name, "30000000")
        notifier.status("one\nline")
        notifier.status("one\nline")
        notifier.ping()
        assert [stream.recv(99) for _ in range(2)] == [b"STATUS=one line", b"WATCHDOG=1"]
        assert notifier.ping_every == 10.0
    notifier.ready()  # nobody listens: no error
    assert Notifier(None).ping_every is None


def test_a_join_that_is_just_starting_is_shown_once() -> None:
    following = {"dataset": "d", "id": None, "path": "/d", "state": "starting", "message": "",
                 "waiting_rows": 0, "queued_rows": 0, "problems": {}}  # fmt: skip
    shown = text(watched=[{"dataset": "ds_1", "path": "/d", "files": []}], following=[following])
    assert [line for line in shown.splitlines() if line.startswith("watched")] == [
        "watched  /d for d: 0 files, 0 rows"
    ]


def test_files_that_are_not_read_are_counted_with_the_reason() -> None:
    following = {"dataset": "d", "id": "ds_1", "path": "/d", "state": "following", "message": "",
                 "waiting_rows": 0, "queued_rows": 0, "problems": {},
                 "unread": {".txt": 2, ".log": 1}}  # fmt: skip
    shown = text(watched=[{"dataset": "ds_1", "path": "/d", "files": []}], following=[following])
    assert "\n         2 files not read (.txt needs --texts)\n" in shown
    assert "\n         1 file not read (.log is no rows)" in shown


def test_a_change_of_state_is_written_soon_and_mere_counts_later(tmp_path: Path) -> None:
    now = [0.0]
    file = NowFile(tmp_path, lambda: now[0])

    def show(seconds: float, state: str, queued: int) -> int:
        now[0] += seconds
        file.show({"datasets": [{"state": state, "queued_rows": queued}]})
        return file.writes

    assert show(0, "starting", 0) == 1
    assert show(1, "following", 0) == 1
    assert show(1, "following", 0) == 2
    assert show(2, "following", 5) == 2
    assert show(8, "following", 6) == 3
