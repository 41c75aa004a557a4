"""Rotating the token at a real server: answers lost, processes killed, nobody locked out."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from splitfrozen.errors import RefusedError
from splitfrozen_edge.cli import main
from splitfrozen_edge.connect import open_client
from splitfrozen_edge.state import Enrolment, StateDirectory
from tests.edge.lossy_proxy import LossyProxy, lossy
from tests.server.stack import ServerProcess, enrol

ROOT = Path(__file__).resolve().parents[2]
SELF = "/v1/devices/self"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("server") / "state")
    yield server
    assert server.stop() == 0


@pytest.fixture
def proxy(real: ServerProcess) -> Iterator[LossyProxy]:
    with lossy(real.url) as found:
        yield found


@pytest.fixture
def state(real: ServerProcess, proxy: LossyProxy, tmp_path: Path) -> StateDirectory:
    """A device enrolled at the real server, which it reaches through the proxy."""
    device = enrol(real)
    found = StateDirectory(tmp_path / "state")
    found.store_enrolment(Enrolment(proxy.url, device["id"], "pi", device["token"]))
    return found


def rotate(state: StateDirectory, *words: str) -> Result:
    return CliRunner().invoke(main, ["token", "rotate", "--state-dir", str(state.path), *words])


def opens(real: ServerProcess, token: str) -> bool:
    with real.client(token) as client:
        return client.get(SELF).status_code == 200


def test_rotation_replaces_the_token_and_ends_the_old_one(
    real: ServerProcess, state: StateDirectory
) -> None:
    old = state.enrolment()
    done = rotate(state)
    assert done.exit_code == 0, done.output
    new = state.enrolment()
    assert new.token != old.token and new.token not in done.output
    assert not opens(real, old.token) and opens(real, new.token)
    assert (new.server, new.device, new.name) == (old.server, old.device, old.name)
    assert stat.S_IMODE((state.path / "device.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("request_line", [f"POST {SELF}/token", f"GET {SELF}"])
@pytest.mark.parametrize("kind", ["lose", "refuse"])
def test_lost_answers_and_lost_requests_are_made_good(
    real: ServerProcess, proxy: LossyProxy, state: StateDirectory, request_line: str, kind: str
) -> None:
    old = state.enrolment().token
    getattr(proxy, kind)[request_line] = 2
    assert rotate(state).exit_code == 0
    assert proxy.requests.count(request_line) == 3
    assert opens(real, state.enrolment().token) and not opens(real, old)


def test_token_that_never_arrives_leaves_the_old_one(
    real: ServerProcess, proxy: LossyProxy, state: StateDirectory
) -> None:
    old = state.enrolment()
    proxy.lose[f"POST {SELF}/token"] = 1000
    assert rotate(state, "--retry-for", "0").exit_code == 3
    assert state.enrolment() == old and opens(real, old.token)
    proxy.lose.clear()
    assert rotate(state).exit_code == 0 and opens(real, state.enrolment().token)


def test_server_that_goes_away_before_the_first_use_finds_a_valid_token_stored(
    real: ServerProcess, proxy: LossyProxy, state: StateDirectory
) -> None:
    old = state.enrolment().token
    proxy.refuse[f"GET {SELF}"] = 1000
    assert rotate(state, "--retry-for", "0").exit_code == 3
    assert state.enrolment().token != old
    assert opens(real, old) and opens(real, state.enrolment().token) and not opens(real, old)


@pytest.mark.parametrize(
    ("when", "point"), [("before", "fetched"), ("after", "fetched"), ("before", "used"),
                        ("after", "used")],
)  # fmt: skip
def test_killed_rotation_leaves_a_token_that_works_and_can_be_repeated(
    real: ServerProcess, state: StateDirectory, when: str, point: str
) -> None:
    command = [sys.executable, "-m", "tests.edge.dying_command", when, point]
    killed = subprocess.run(
        [*command, "token", "rotate", "--state-dir", str(state.path)], cwd=ROOT, timeout=60
    )
    assert killed.returncode == -9
    before = state.enrolment().token
    done = rotate(state)
    assert done.exit_code == 0, done.output
    assert opens(real, state.enrolment().token) and not opens(real, before)


def test_process_with_the_old_token_takes_up_the_new_one(
    real: ServerProcess, state: StateDirectory
) -> None:
    daemon = open_client(state.enrolment(), 0, threading.Event())
    assert daemon.call("GET", SELF)
    assert rotate(state).exit_code == 0
    assert daemon.call("GET", SELF)["id"] == state.enrolment().device
    assert daemon.call("POST", f"{SELF}/heartbeat", {})["next_in"] > 0
    daemon.close()


def test_revoked_token_ends_in_words_and_without_retries(
    real: ServerProcess, proxy: LossyProxy, state: StateDirectory
) -> None:
    with real.client() as admin:
        admin.delete(f"/v1/devices/{state.enrolment().device}").raise_for_status()
    done = rotate(state)
    assert done.exit_code == 3 and "[unauthorized]" in done.stderr
    client = open_client(state.enrolment(), 300, threading.Event())
    with pytest.raises(RefusedError, match="revoked"):
        client.put_shard("d", "0" * 64, b"body")
    client.close()
    assert [line.split()[0] for line in proxy.requests] == ["POST", "PUT"]


def test_two_rotations_at_once_lock_nobody_out(real: ServerProcess, state: StateDirectory) -> None:
    command = [sys.executable, "-m", "splitfrozen_edge", "token", "rotate"]
    both = [
        subprocess.Popen([*command, "--state-dir", str(state.path)], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    statuses = [process.wait(60) for process in both]
    for process in both:
        assert process.stderr is not None
        process.stderr.close()
    assert set(statuses) <= {0, 2} and 0 in statuses
    assert opens(real, state.enrolment().token)


def test_device_that_is_not_enrolled_is_told_so(tmp_path: Path) -> None:
    assert rotate(StateDirectory(tmp_path / "nothing")).exit_code == 2
