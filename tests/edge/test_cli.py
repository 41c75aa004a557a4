"""The command line: help for people, documented exit codes, output for programs."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from splitfrozen.errors import DataError, ManifestError, RefusedError
from splitfrozen_edge.cli import main
from splitfrozen_edge.connect import open_client
from splitfrozen_edge.exits import Interrupted, describe
from splitfrozen_edge.identity.enrolling import is_loopback
from splitfrozen_edge.pushing.stopping import Stopped
from splitfrozen_edge.state import Enrolment, StateDirectory
from tests.edge.conftest import write_sentences
from tests.edge.protocol_server import ENROL_TOKEN, Fault, ProtocolServer


def run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, [str(item) for item in arguments])


@pytest.fixture
def push_arguments(tmp_path: Path, state: StateDirectory, encoder_bundle: Path) -> list[str | Path]:
    data = write_sentences(tmp_path / "data.jsonl", 20)
    fixed = ["push", "--state-dir", state.path, "--retry-for", "0", "--threads", "1"]
    return [*fixed, "--dataset", "d", "--data", data, "--bundle", encoder_bundle]


@pytest.mark.parametrize(
    "command", ["enroll", "push", "predict", "generate", "chat", "status", "queue"]
)
def test_every_command_and_option_has_help(command: str) -> None:
    found = run(command, "--help")
    assert found.exit_code == 0
    options = main.commands[command].params
    assert all(option.help for option in options if isinstance(option, click.Option))


def test_the_help_lists_the_exit_codes() -> None:
    found = run("--help")
    assert found.exit_code == 0
    assert all(f"\n    {code} " in found.output for code in (0, 1, 2, 3, 130))


@pytest.mark.parametrize("command", ["predict", "generate", "chat"])
def test_what_sends_a_text_says_that_the_server_can_read_it(command: str) -> None:
    found = " ".join(run(command, "--help").output.split())
    assert "hoever runs the server can reconstruct the" in found


@pytest.mark.parametrize(
    ("server", "warned"),
    [
        ("http://127.0.0.1:1", False),
        ("http://localhost:1", False),
        ("http://[::1]:1", False),
        ("http://127.evil.example", True),
        ("http://localhost.example", True),
    ],
)
def test_plain_http_is_warned_about_beyond_this_machine(server: str, warned: bool) -> None:
    assert is_loopback(server) is not warned


def test_what_the_server_refuses_for_ever_can_be_dropped(
    push_arguments: list[str | Path], state: StateDirectory, server: ProtocolServer
) -> None:
    server.script("PUT", Fault("refuse", 404, "not_found"))
    refused = run(*push_arguments)
    assert refused.exit_code == 3
    assert "queue drop --dataset ds_0" in refused.output
    home = ("--state-dir", state.path)
    assert "20 in 1 shard were refused" in run("queue", "list", *home).output
    drop = ("queue", "drop", "--dataset", "d", *home)
    unanswered, refused = run(*drop), CliRunner().invoke(main, [*map(str, drop)], input="n\n")
    for found in (unanswered, refused):
        assert (found.exit_code, "nothing was dropped" in found.stderr) == (1, True)
    dropped = run("queue", "drop", "--dataset", "d", "--yes", *home)
    assert (dropped.exit_code, "dropped 20 examples" in dropped.output) == (0, True)
    assert run("queue", "list", *home).output == "nothing waits\n"
    again = run(*drop)
    assert (again.exit_code, again.output) == (0, "nothing waits\n"), "and nothing is asked"
    assert run("queue", "drop", "--dataset", "x", *home).exit_code == 2
    assert run(*push_arguments).exit_code == 0
    assert len(server.example_ids("ds_0")) == 20


def test_enroll_push_status_predict(
    tmp_path: Path, server: ProtocolServer, encoder_bundle: Path
) -> None:
    home = tmp_path / "home"
    found = run("--state-dir", home, "enroll", "--server", server.url, "--token", ENROL_TOKEN,
                "--name", "pi-1")  # fmt: skip
    assert (found.exit_code, found.output) == (0, f"enrolled pi-1 as dev_1 at {server.url}\n")
    data = write_sentences(tmp_path / "data.jsonl", 20)
    pushed = run("push", "--bundle", encoder_bundle, "--dataset", "d", "--data", data,
                 "--format", "json", SPLITFROZEN_EDGE_HOME=str(home))  # fmt: skip
    report = json.loads(pushed.stdout)
    assert report["uploaded_examples"] == 20
    assert {"cpu_seconds", "bytes_up", "skipped", "truncated", "tokens"} <= set(report)
    status = run("status", "--state-dir", home)
    assert "pi-1 (dev_1)" in status.output
    assert "d: 20 sent, 0 examples wait" in status.output
    answer = run("predict", "--state-dir", home, "--model", "ft:x", "--text", "a", "--text", "b")
    assert answer.exit_code == 0
    assert len(answer.stdout.splitlines()) == 2
    assert "reconstruct the text" in answer.stderr


def test_secrets_are_readable_by_their_owner_only(
    tmp_path: Path, server: ProtocolServer, state: StateDirectory
) -> None:
    state.key()
    state.outbox().close()
    for name in ("device.json", "key", "outbox.sqlite3"):
        assert stat.S_IMODE((state.path / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    shown = run("status", "--state-dir", state.path, "--format", "json")
    assert state.enrolment().token not in shown.output
    assert json.loads(shown.output)["device"]["id"] == "dev_1"


def test_texts_of_a_file_are_predicted_as_json(
    tmp_path: Path, state: StateDirectory, encoder_bundle: Path
) -> None:
    data = write_sentences(tmp_path / "data.jsonl", 3)
    found = run("predict", "--state-dir", state.path, "--model", "ft:x", "--data", data,
                "--bundle", encoder_bundle, "--format", "json")  # fmt: skip
    document = json.loads(found.stdout)
    assert [item["line"] for item in document["data"]] == [1, 2, 3]


def test_the_progress_and_warnings_never_mix_with_the_report(
    push_arguments: list[str | Path],
) -> None:
    found = run(*push_arguments, "--format", "json")
    assert found.exit_code == 0
    json.loads(found.stdout)
    assert "truncated" in found.stderr


def test_bad_data_exits_with_2(tmp_path: Path, push_arguments: list[str | Path]) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": 1, "label": 2}')
    found = run(*push_arguments)
    assert found.exit_code == 2
    assert "data.jsonl:1: text: is a number, not text" in found.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("push",),
        ("nonsense",),
        ("predict", "--model", "ft:x"),
        ("predict", "--model", "ft:x", "--text", "a", "--data", __file__),
        ("enroll", "--server", "localhost:8000", "--token", "t"),
        ("push", "--dataset", "d", "--data", __file__, "--fields", "text"),
        ("push", "--dataset", "d", "--data", __file__),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    found = run("--state-dir", tmp_path / "empty", *arguments)
    assert found.exit_code == 2
    assert "Error: " in found.stderr
    assert not (tmp_path / "empty").exists()


def test_a_second_enrolment_needs_force(state: StateDirectory, server: ProtocolServer) -> None:
    again = ["enroll", "--state-dir", state.path, "--server", server.url, "--token", ENROL_TOKEN]
    found = run(*again)
    assert found.exit_code == 2
    assert "--force" in found.stderr
    assert run(*again, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault("before"), "unavailable"), (Fault("refuse", 401, "unauthorized"), "unauthorized")],
)
def test_a_server_that_refuses_or_is_away_exits_with_3(
    push_arguments: list[str | Path], server: ProtocolServer, fault: Fault, code: str
) -> None:
    server.script("GET", *[fault] * 20)
    found = run(*push_arguments)
    assert found.exit_code == 3
    assert f"[{code}]" in found.stderr


def test_plain_http_beyond_the_loopback_is_warned_about(tmp_path: Path) -> None:
    found = run("--state-dir", tmp_path, "enroll", "--server", "http://splitfrozen.invalid",
                "--token", "t", "--retry-for", "0")  # fmt: skip
    assert "plain http" in found.stderr
    assert found.exit_code == 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("x"), 2),
        (RefusedError("unavailable", "x"), 3),
        (ManifestError("missing_file", "x"), 1),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_errors_have_their_exit_code(error: Exception, code: int) -> None:
    found = describe(error)
    assert found is not None
    assert found[0] == code


def test_a_bug_is_not_dressed_up() -> None:
    assert describe(RuntimeError("bug")) is None


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("push", "interrupted; the same command continues"),
        ("run", "interrupted; the same command goes on"),
        ("forget", "interrupted; the same command finishes it"),
        ("generate", "interrupted"),
        (None, "interrupted"),
    ],
)
def test_an_interruption_promises_what_holds_for_the_command(
    command: str | None, words: str
) -> None:
    assert Interrupted(command).words() == words


def test_a_wait_for_a_server_is_told_in_words() -> None:
    told: list[str] = []
    stop = threading.Event()

    def tell(message: str) -> None:
        told.append(message)
        stop.set()

    who = Enrolment("http://127.0.0.1:9/", "dev_1", "pi", "t")
    client = open_client(who, 1000, stop, on_wait=tell)
    with pytest.raises(Stopped):
        client.dataset("d")
    client.close()
    assert told[0].startswith("server http://127.0.0.1:9/ does not answer (Connection refused); ")
    assert "; trying for " in told[0] and told[0].endswith(" seconds, Ctrl-C ends")


def test_https_to_a_plain_server_is_said_at_once(tmp_path: Path, server: ProtocolServer) -> None:
    url = server.url.replace("http:", "https:")
    found = run("enroll", "--state-dir", tmp_path / "s", "--server", url, "--token", "t",
                "--retry-for", "1000")  # fmt: skip
    assert (found.exit_code, "does the server speak http?" in found.stderr) == (3, True)
