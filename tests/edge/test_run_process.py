"""`run`, `watch`, `join` and `leave` as processes: signals, systemd's socket, one at a time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from splitfrozen_edge.daemon.nowfile import read_now
from splitfrozen_edge.state import StateDirectory
from tests.edge.feeding import ENVIRONMENT, rows, running, until
from tests.edge.protocol_server import Fault, ProtocolServer


@pytest.fixture
def dataset(server: ProtocolServer) -> str:
    return server.add_dataset("reviews", "classification")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text(rows(0, 20))
    return path


def edge(state: StateDirectory, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "splitfrozen_edge", *arguments]
    return subprocess.run(
        [*program, "--state-dir", str(state.path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def systemd(path: Path) -> Iterator[list[str]]:
    """The socket that systemd gives a service; what it hears is read when asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stream:
        stream.bind(str(path))
        stream.settimeout(30)

        class Heard(list[str]):
            def wait_for(self, beginning: str) -> None:
                while not any(item.startswith(beginning) for item in self):
                    self.append(stream.recv(4096).decode())

        yield Heard()


def join(state: StateDirectory, data: Path, bundle: Path) -> None:
    done = edge(state, "join", "reviews", "--data", str(data), "--bundle", str(bundle),
                "--max-wait", "0", "--threads", "1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"joined reviews: rows come from {data}\n"


def test_run_tells_systemd_feeds_and_ends_on_sigterm(
    tmp_path: Path, state: StateDirectory, server: ProtocolServer, dataset: str, data: Path,
    encoder_bundle: Path,
) -> None:  # fmt: skip
    join(state, data, encoder_bundle)
    with systemd(tmp_path / "notify") as heard:
        extra = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        with running(state, "run", **extra) as process:
            heard.wait_for("READY=1")
            heard.wait_for("WATCHDOG=1")
            heard.wait_for("STATUS=follows 1 dataset")
            until(lambda: len(server.example_ids(dataset)) == 20)
            now = read_now(state.path)
            assert now is not None
            assert (now["running"], now["pid"]) == (True, process.pid)
            process.send_signal(signal.SIGTERM)
            heard.wait_for("STOPPING=1")
            assert process.wait(20) == 0
    now = read_now(state.path)
    assert now is not None
    assert now["running"] is False
    assert now["ended_at"] is not None


def test_what_joins_and_leaves_is_noticed_by_a_daemon_that_runs(
    tmp_path: Path, state: StateDirectory, server: ProtocolServer, dataset: str, data: Path,
    encoder_bundle: Path,
) -> None:  # fmt: skip
    with running(state, "run") as process:
        until(lambda: server.beats)
        join(state, data, encoder_bundle)
        process.send_signal(signal.SIGHUP)
        until(lambda: len(server.example_ids(dataset)) == 20)
        assert edge(state, "leave", "reviews").stdout == "left reviews\n"
        process.send_signal(signal.SIGHUP)
        # Broken settings change nothing: the daemon says so and goes on.
        (state.path / "policy.json").write_text('{"max_rate": "fast"}')
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        line = next(line for line in process.stderr if "settings stay" in line)
        assert "policy.json: max_rate is a number from 1 to 1e+12; not 'fast'" in line
        assert process.poll() is None


def test_one_daemon_at_a_time_and_the_other_commands_say_so_or_work(
    tmp_path: Path, state: StateDirectory, server: ProtocolServer, dataset: str, data: Path,
    encoder_bundle: Path,
) -> None:  # fmt: skip
    join(state, data, encoder_bundle)
    with running(state, "run") as process:
        until(lambda: server.beats)
        second = edge(state, "run")
        assert second.returncode == 1  # systemd tries again, as it does not after a 2
        assert f"splitfrozen-edge run (process {process.pid}) works with" in second.stderr
        pushed = edge(state, "push", "--dataset", "reviews", "--data", str(data))
        assert pushed.returncode == 1
        assert edge(state, "queue", "list").returncode == 0
        until(lambda: "reviews: 20 sent" in edge(state, "status").stdout)
        assert "daemon   running for" in edge(state, "status").stdout


def test_an_interrupted_watch_says_130_and_the_next_one_goes_on(
    state: StateDirectory, server: ProtocolServer, dataset: str, data: Path, encoder_bundle: Path
) -> None:
    command = ("watch", str(data), "--dataset", "reviews", "--bundle", str(encoder_bundle),
               "--max-wait", "0", "--threads", "1")  # fmt: skip
    with running(state, *command) as process:
        until(lambda: len(server.example_ids(dataset)) == 20)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    with data.open("a") as stream:
        stream.write(rows(20, 3))
    with running(state, *command):
        until(lambda: len(server.example_ids(dataset)) == 23)


def test_a_run_that_was_killed_is_not_shown_as_running(
    state: StateDirectory, server: ProtocolServer
) -> None:
    with running(state, "run") as process:
        until(lambda: read_now(state.path))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert "daemon   not running; it died" in edge(state, "status").stdout


def test_policy_flags_of_run_are_stored(state: StateDirectory, server: ProtocolServer) -> None:
    with running(state, "run", "--max-rate", "5000", "--quiet-hours", "22:00-06:00"):
        until(lambda: server.beats)
    stored = json.loads((state.path / "policy.json").read_text())
    assert (stored["max_rate"], stored["quiet_hours"]) == (5000, "22:00-06:00")
    with running(state, "run", "--only-charging"):
        until(lambda: len(server.beats) > 1)
    stored = json.loads((state.path / "policy.json").read_text())
    assert (stored["max_rate"], stored["only_charging"]) == (5000, True)
    with running(state, "run", "--reset-policy", "--cpu-share", "0.5"):
        until(lambda: len(server.beats) > 2)
    stored = json.loads((state.path / "policy.json").read_text())
    assert (stored["max_rate"], stored["cpu_share"]) == (None, 0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("join", "nothing", "--data", "x"), "there is no dataset nothing"),
        (("leave", "nothing"), "dataset nothing has not joined; joined are: none"),
        (("run", "--quiet-hours", "8-9"), "quiet_hours is HH:MM-HH:MM"),
        (("run", "--cpu-share", "2"), "--cpu-share"),
        (("watch", "x"), "--dataset"),
    ],
)
def test_wrong_usage_exits_with_2(
    state: StateDirectory, arguments: tuple[str, ...], words: str
) -> None:
    done = edge(state, *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_push_that_fails_ends_no_daemon(
    state: StateDirectory, server: ProtocolServer, dataset: str, data: Path, encoder_bundle: Path
) -> None:
    """The server answers neither heartbeats nor new labels for a while, then no uploads."""
    server.script("POST", *[Fault("refuse", 500, "internal_error")] * 2)
    server.script("PUT", Fault("refuse", 500, "internal_error"))
    join(state, data, encoder_bundle)
    with running(state, "run") as process:
        until(lambda: len(server.example_ids(dataset)) == 20, 90)
        assert process.poll() is None
