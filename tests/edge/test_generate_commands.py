"""generate and chat as programs: flags, standard streams, Ctrl-C, and which bundle they take."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from splitfrozen import read_bundle
from splitfrozen_edge.cli import main
from splitfrozen_edge.commands.generation import without_controls
from splitfrozen_edge.inference.choose import choose_generation_bundle
from splitfrozen_edge.model.bundles import BundleStore
from splitfrozen_edge.model.cached_session import CachedSession
from splitfrozen_edge.state import StateDirectory, StateError
from tests.edge.protocol_server import Fault, ProtocolServer
from tests.edge.test_generate import LENGTH, PROMPT, SEED, expected_text
from tests.edge.tiny_bundle import write_bundle

RUN = "from splitfrozen_edge.cli import main; main()"
ENDLESS = 1 << 20


def flags(state: StateDirectory, bundle: Path, *more: object) -> list[str]:
    fixed = ("--state-dir", state.path, "--model", "tiny", "--bundle", bundle, "--threads", 1)
    return [str(item) for item in (*fixed, "--seed", SEED, "--max-tokens", LENGTH, *more)]


def generate(state: StateDirectory, bundle: Path, *more: object, given: str = "") -> Result:
    return CliRunner().invoke(main, ["generate", *flags(state, bundle, *more)], input=given)


@pytest.fixture
def answer(past_bundle: Path) -> str:
    bundle = read_bundle(past_bundle)
    return expected_text(CachedSession(bundle, threads=1), bundle)


def test_the_text_is_printed_and_the_note_once(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path, answer: str
) -> None:
    found = generate(state, past_bundle, "--prompt", PROMPT)
    assert (found.exit_code, found.stdout) == (0, answer + "\n")
    assert "can reconstruct the prompt" in found.stderr
    again = generate(state, past_bundle, "--prompt", PROMPT)
    assert (again.stdout, again.stderr) == (answer + "\n", "")
    assert not server.split.open


def test_a_prompt_from_a_file_or_a_pipe_is_the_same(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path, answer: str, tmp_path: Path
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT + "\n")
    assert generate(state, past_bundle, "--prompt-file", file).stdout == answer + "\n"
    assert generate(state, past_bundle, "--prompt-file", "-", given=PROMPT).stdout == answer + "\n"
    assert generate(state, past_bundle, given=PROMPT + "\n").stdout == answer + "\n"
    both = generate(state, past_bundle, "--prompt", "x", "--prompt-file", file)
    assert both.exit_code == 2


def test_json_has_text_reason_seed_usage_and_probabilities(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path, answer: str
) -> None:
    found = generate(state, past_bundle, "--prompt", PROMPT, "--format", "json", "--logprobs", 2)
    document = json.loads(found.stdout)
    assert (document["text"], document["finish_reason"]) == (answer, "length")
    assert (document["seed"], document["usage"]["completion_tokens"]) == (SEED, LENGTH)
    assert len(document["tokens"]) == LENGTH
    assert all(len(token["top_logprobs"]) == 2 for token in document["tokens"])
    assert document["timing"]["steps"] == LENGTH - 1
    refused = generate(state, past_bundle, "--prompt", PROMPT, "--logprobs", 2)
    assert (refused.exit_code, "--format json" in refused.output) == (2, True)


def test_a_prompt_that_is_no_text_is_bad_input(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"caf\xe9")
    for found in (
        generate(state, past_bundle, "--prompt-file", file),
        generate(state, past_bundle, "--prompt", "caf\udce9"),
    ):
        assert (found.exit_code, "not UTF-8" in found.output) == (2, True)
    assert not server.split.made


def test_the_flags_reach_the_server(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path
) -> None:
    generate(state, past_bundle, "--prompt", "a", "--temperature", 0, "--top-p", 0.9)
    (made,) = server.split.made
    assert (made["temperature"], made["top_p"], made["seed"]) == (0.0, 0.9, SEED)


def test_a_bundle_that_cannot_generate_says_how_to_make_one(
    state: StateDirectory, server: ProtocolServer, decoder_bundle: Path
) -> None:
    found = generate(state, decoder_bundle, "--prompt", "a")
    assert found.exit_code == 2
    assert "device_with_past.onnx" in found.output and "splitfrozen-export" in found.output
    assert not server.split.made


def test_a_refusal_has_exit_code_3(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path
) -> None:
    server.script("POST", Fault("refuse", 404, "not_found"))
    found = generate(state, past_bundle, "--prompt", "a")
    assert (found.exit_code, "[not_found]" in found.output) == (3, True)


def test_a_terminal_gets_every_script_and_no_escape_sequence() -> None:
    text = "a\u3000漢字 👩\u200d🚀\tב\n"
    assert without_controls(text) == text
    assert without_controls("\x1b]0;title\x07 \x9b31m\r") == "]0;title 31m"


def test_ctrl_c_ends_the_text_and_deletes_the_session(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path
) -> None:
    server.split.max_positions = ENDLESS
    arguments = flags(state, past_bundle, "--prompt", PROMPT, "--max-tokens", ENDLESS)
    command = [sys.executable, "-c", RUN, "generate", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in error
    assert server.split.deleted == ["sess_1"]


def test_a_pipe_is_a_conversation(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path
) -> None:
    lines = "the bird\n\nand the snail\n/clear\nthe bird\n/quit\nnever\n"
    found = CliRunner().invoke(main, ["chat", *flags(state, past_bundle)], input=lines)
    assert found.exit_code == 0
    assert "can reconstruct" in found.stderr
    assert len(server.split.made) == 2
    assert server.split.deleted == ["sess_1", "sess_2"]
    assert server.split.steps == 3 * LENGTH


def test_an_unknown_command_is_not_sent(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path
) -> None:
    lines = "/exit\n/model other\n/quit\n"
    found = CliRunner().invoke(main, ["chat", *flags(state, past_bundle)], input=lines)
    assert found.exit_code == 0
    assert "there is no /exit: /clear starts over, /quit" in found.stderr
    assert "there is no /model" in found.stderr
    assert server.split.steps == 0


def test_a_turn_without_room_is_said_and_the_conversation_goes_on(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path
) -> None:
    server.split.max_positions = 50
    lines = "the red bird and the snail and the red bird and the snail and more\na\n"
    found = CliRunner().invoke(main, ["chat", *flags(state, past_bundle)], input=lines)
    assert found.exit_code == 0
    assert "/clear starts over" in found.stderr
    assert server.split.steps == LENGTH


class Terminal:
    """A process on a pseudo-terminal."""

    def __init__(self, arguments: list[str]) -> None:
        self._own, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, *arguments],
            stdin=other, stdout=other, stderr=other, env=os.environ | {"TERM": "dumb"},
        )  # fmt: skip
        os.close(other)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._own, text.encode())

    def wait_for(self, text: str, after: int = 0, seconds: float = 60) -> int:
        """Read until `text` appears; the place behind it."""
        end = time.monotonic() + seconds
        while text not in self.seen[after:]:
            ready, _, _ = select.select([self._own], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self._own, 4096).decode(errors="replace")
        return self.seen.index(text, after) + len(text)

    def interrupt_until(self, text: str, after: int) -> None:
        """Send SIGINT until `text` appears: readline sleeps over one that comes too early."""
        while text not in self.seen[after:]:
            assert self.process.poll() is None, self.seen
            self.process.send_signal(signal.SIGINT)
            if select.select([self._own], [], [], 0.5)[0]:
                self.seen += os.read(self._own, 4096).decode(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._own)


@contextmanager
def terminal(arguments: list[str]) -> Iterator[Terminal]:
    found = Terminal(arguments)
    try:
        yield found
    finally:
        found.close()


def test_at_a_terminal_ctrl_c_ends_an_answer_and_the_conversation_goes_on(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path
) -> None:
    server.split.max_positions = ENDLESS
    arguments = flags(state, past_bundle, "--max-tokens", ENDLESS)
    with terminal(["chat", *arguments]) as screen:
        at = screen.wait_for("> ")
        assert "can reconstruct" in screen.seen and "/clear starts over" in screen.seen
        screen.type("hi\n")
        at = screen.wait_for("hi", at)
        while server.split.steps < 5:
            time.sleep(0.01)
        screen.process.send_signal(signal.SIGINT)
        at = screen.wait_for("\n> ", at)
        assert len(server.split.open) == 1
        screen.interrupt_until("Ctrl-D leaves", at)
        screen.type("/quit\n")
        assert screen.process.wait(60) == 0
    assert server.split.deleted == ["sess_1"]


def test_at_a_terminal_a_server_that_is_away_does_not_end_the_conversation(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path
) -> None:
    with terminal(["chat", *flags(state, past_bundle, "--retry-for", 0)]) as screen:
        at = screen.wait_for("> ")
        server.script("POST", Fault("refuse", 503, "unavailable"))
        screen.type("the bird\n")
        at = screen.wait_for("ask again", at)
        at = screen.wait_for("> ", at)
        screen.type("the bird\n")
        screen.wait_for("\n> ", screen.wait_for("bird", at))
        assert server.split.steps == LENGTH
        screen.type("/quit\n")
        assert screen.process.wait(60) == 0
    assert not server.split.open


def test_in_a_pipe_a_server_that_is_away_is_an_error(
    state: StateDirectory, server: ProtocolServer, past_bundle: Path
) -> None:
    server.script("POST", Fault("none"), Fault("refuse", 503, "unavailable"))
    arguments = ["chat", *flags(state, past_bundle, "--retry-for", 0)]
    found = CliRunner().invoke(main, arguments, input="the bird\n")
    assert found.exit_code == 3


def choose(wanted: str | None, model: str, state: StateDirectory, client: object) -> str:
    outbox = state.outbox()
    try:
        store = BundleStore(state, outbox, client)  # type: ignore[arg-type]
        return choose_generation_bundle(wanted, model, store, client).id  # type: ignore[arg-type]
    finally:
        outbox.close()


def test_among_a_models_bundles_one_that_can_generate_is_taken(
    state: StateDirectory, server: ProtocolServer, client: object, past_bundle: Path, tmp_path: Path
) -> None:
    server.models["ft:x"] = {"id": "ft:x", "splitfrozen": {"base_model": "tiny", "cut": 2}}
    with pytest.raises(StateError, match=r"no bundle of tiny with cut 2 .* device_with_past\.onnx"):
        choose(None, "ft:x", state, client)
    wanted = server.publish(past_bundle)
    server.publish(write_bundle(tmp_path / "newer", family="llama", max_length=16))
    assert choose(None, "ft:x", state, client) == wanted
    another = server.publish(
        write_bundle(tmp_path / "newest", family="llama", with_past=True, max_length=16)
    )
    assert choose(None, "ft:x", state, client) == wanted  # it is here already
    assert choose(another, "ft:x", state, client) == another
    assert choose(None, "ft:x", state, client) == another  # the last that was used


def test_a_base_model_takes_a_bundle_of_any_cut_and_a_classifier_none(
    state: StateDirectory, server: ProtocolServer, client: object, past_bundle: Path
) -> None:
    wanted = server.publish(past_bundle)
    server.models["tiny"] = {"id": "tiny", "splitfrozen": {"kind": "base_model"}}
    assert choose(None, "tiny", state, client) == wanted
    own = {"base_model": "tiny", "cut": 2, "task": "classification"}
    server.models["ft:c"] = {"id": "ft:c", "splitfrozen": own}
    with pytest.raises(StateError, match="use predict"):
        choose(None, "ft:c", state, client)
