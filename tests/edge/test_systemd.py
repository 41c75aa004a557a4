"""The unit: systemd accepts it, it is tight, and the runtime lives within it."""

from __future__ import annotations

import ctypes.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from splitfrozen_edge.cli import main
from splitfrozen_edge.state import StateDirectory
from splitfrozen_edge.systemd.unit import fill_unit, read_unit
from tests.edge.conftest import write_sentences
from tests.edge.protocol_server import ProtocolServer

LOOSEST = 2.0  # of 10: exposure as systemd-analyze 252 counts it, with the network open
UNDER_UNIT = Path(__file__).with_name("under_unit.py")


@pytest.fixture(scope="session")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("no systemd-analyze: install Debian's package systemd")
    return found


@pytest.fixture
def printed(tmp_path: Path) -> Path:
    """What `service print` says in this environment, as a unit file."""
    done = CliRunner().invoke(main, ["service", "print"])
    assert done.exit_code == 0, done.output
    path = tmp_path / "splitfrozen-edge.service"
    path.write_text(done.stdout)
    return path


def settings(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit, flags=re.MULTILINE)


def test_systemd_finds_no_fault_with_the_unit(analyze: str, printed: Path) -> None:
    done = subprocess.run([analyze, "verify", printed], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_fault_would_be_found(analyze: str, printed: Path) -> None:
    printed.write_text(printed.read_text().replace("RestartSec=30", "RestartSec=soon"))
    done = subprocess.run([analyze, "verify", printed], capture_output=True, text=True)
    assert "Failed to parse" in done.stderr


def test_the_service_can_reach_little_beyond_the_network(analyze: str, printed: Path) -> None:
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", printed],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    overall = re.search(r"Overall exposure level[^:]*: ([\d.]+)", done.stdout)
    assert overall is not None
    print(overall[0])
    assert float(overall[1]) <= LOOSEST


def test_the_unit_runs_the_program_of_this_installation(printed: Path) -> None:
    (line,) = settings(printed.read_text(), "ExecStart")
    program, *arguments = line.split()
    assert Path(program) == Path(sys.executable).with_name("splitfrozen-edge")
    assert Path(program).is_file()
    assert arguments == ["run", "--state-dir", "/var/lib/splitfrozen-edge"]


def test_user_and_directory_can_be_others() -> None:
    done = CliRunner().invoke(
        main, ["service", "print", "--user", "pi", "--state-dir", "/var/lib/second/edge"]
    )
    assert settings(done.stdout, "User") == ["pi"]
    assert settings(done.stdout, "StateDirectory") == ["second/edge"]
    assert settings(done.stdout, "ExecStart")[0].endswith("run --state-dir /var/lib/second/edge")


@pytest.mark.parametrize(
    ("user", "state", "words"),
    [
        ("pi", "/home/pi/edge", "must lie below /var/lib"),
        ("pi", "/var/lib", "must lie below"),
        ("pi", "/var/lib/../etc/edge", "must lie below"),
        ("pi\nExecStartPre=/bin/sh", "/var/lib/edge", "cannot stand in a unit"),
        ("pi", "/var/lib/e dge", "cannot stand in a unit"),
    ],
)
def test_what_a_unit_cannot_say_is_refused(user: str, state: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fill_unit(read_unit(), program="/opt/bin/splitfrozen-edge", user=user, state=state)
    done = CliRunner().invoke(main, ["service", "print", "--user", user, "--state-dir", state])
    assert done.exit_code == 2


def allowed_calls(analyze: str, unit: str) -> set[str]:
    """The system calls that the unit's filters leave, as systemd resolves its groups."""
    allowed: set[str] = set()
    for line in settings(unit, "SystemCallFilter"):
        names = set[str]()
        for word in line.removeprefix("~").split():
            names |= group(analyze, word) if word.startswith("@") else {word}
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def group(analyze: str, name: str) -> set[str]:
    listed = subprocess.run(
        [analyze, "syscall-filter", "--no-pager", name], capture_output=True, text=True, check=True
    ).stdout
    names = {word.strip() for word in listed.splitlines()[1:] if not word.strip().startswith("#")}
    found = {word for word in names if word and not word.startswith("@")}
    for inner in names:
        found |= group(analyze, inner) if inner.startswith("@") else set()
    return found


@pytest.fixture
def under_unit(analyze: str, printed: Path, tmp_path: Path) -> list[str | Path]:
    """Put before a program, it runs with the unit's system calls and nothing executable added."""
    if ctypes.util.find_library("seccomp") is None:
        pytest.skip("no libseccomp.so.2: install Debian's package libseccomp2")
    names = tmp_path / "allowed"
    names.write_text("\n".join(sorted(allowed_calls(analyze, printed.read_text()))))
    return [sys.executable, UNDER_UNIT, names]


def test_a_push_works_with_the_system_calls_that_the_unit_leaves(
    under_unit: list[str | Path],
    state: StateDirectory,
    server: ProtocolServer,
    encoder_bundle: Path,
    tmp_path: Path,
) -> None:
    data = write_sentences(tmp_path / "data.jsonl", 30)
    options = ["--dataset", "d", "--data", data, "--bundle", encoder_bundle]
    program = [sys.executable, "-m", "splitfrozen_edge"]
    push = [*program, "push", "--state-dir", state.path, *options]
    done = subprocess.run([*under_unit, *push], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(server.example_ids("ds_0")) == 30


def test_the_daemon_works_with_them_and_tells_systemd_how_it_is(
    under_unit: list[str | Path],
    state: StateDirectory,
    server: ProtocolServer,
    encoder_bundle: Path,
    tmp_path: Path,
) -> None:
    """READY, then the watchdog's sign of life; SIGTERM ends it with 0, as systemd wants it."""
    dataset = server.add_dataset("d", "classification", ["good"])
    data = write_sentences(tmp_path / "data.jsonl", 30)
    program = [sys.executable, "-m", "splitfrozen_edge"]
    options = ["--state-dir", str(state.path)]
    join = ["join", "d", *options, "--data", str(data), "--bundle", str(encoder_bundle)]
    subprocess.run([*program, *join], check=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"}
        with subprocess.Popen(
            [*under_unit, *program, "run", *options], env={**os.environ, **told}
        ) as daemon:
            try:
                heard = [systemd.recv(4096).decode()]
                while "WATCHDOG=1" not in heard or len(server.example_ids(dataset)) < 30:
                    heard.append(systemd.recv(4096).decode())
            finally:
                daemon.terminate()
    assert heard[0] == "READY=1"
    assert daemon.returncode == 0


def test_the_daemon_of_a_device_that_is_not_enrolled_is_not_started_again(
    printed: Path, tmp_path: Path
) -> None:
    program = [sys.executable, "-m", "splitfrozen_edge", "run", "--state-dir", tmp_path / "none"]
    code = subprocess.run(program, capture_output=True).returncode
    assert settings(printed.read_text(), "RestartPreventExitStatus") == [str(code)]


def test_the_filter_of_that_test_refuses_what_the_unit_does_not_leave(
    under_unit: list[str | Path],
) -> None:
    program = [sys.executable, "-c", "import os; os.chroot('/')"]
    done = subprocess.run([*under_unit, *program], capture_output=True, text=True)
    assert "PermissionError" in done.stderr
