"""`splitfrozen-bundle publish` against a real server: kills, resumption, refusals, retries."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from splitfrozen.errors import RefusedError, SplitFrozenError
from splitfrozen.manifest import FileEntry, bundle_id
from splitfrozen_export.tools.publish import publish_bundle
from splitfrozen_export.tools.server import ATTEMPTS, ServerConnection
from splitfrozen_export.tools.tokens import Token, find_token
from tests.server.conftest import FILES
from tests.server.stack import ServerProcess

WriteBundle = Callable[..., str]
GIVEN = Token("t", "--token")
PROGRAM = "from splitfrozen_export.tools.cli import main; main()"


@pytest.fixture(scope="module")
def server(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose list of bundles no other test looks at."""
    copy = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("publish") / "state"))
    running = ServerProcess(copy)
    yield running
    assert running.stop() == 0


def start(directory: Path, server: ServerProcess, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, "publish", str(directory), "--server", server.url]
    command += ["--data-dir", str(server.data_dir), "--format", "json", *options]
    clean = {name: os.environ[name] for name in os.environ if not name.startswith("SPLITFROZEN")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=clean)


def publish(directory: Path, server: ServerProcess, *options: str) -> tuple[int, str, str]:
    process = start(directory, server, *options)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def large_bundle(directory: Path, write_bundle: WriteBundle, size: int) -> Path:
    """A bundle whose weights take a moment to send."""
    import hashlib

    weights = os.urandom(1 << 20) * (size >> 20)
    contents = {**FILES, "device.onnx.data": weights}
    files = {
        name: FileEntry(hashlib.sha256(content).hexdigest(), len(content))
        for name, content in contents.items()
    }
    write_bundle(directory, files=files)
    (directory / "device.onnx.data").write_bytes(weights)
    return directory


def test_a_bundle_is_published_and_again_costs_nothing(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    wanted = write_bundle(tmp_path / "b", opset=20)
    code, output, errors = publish(tmp_path / "b", server)
    found = json.loads(output)
    assert (code, found["id"], found["new"]) == (0, wanted, True), errors
    assert found["sent"] == sum(map(len, FILES.values()))
    with server.client() as admin:
        assert admin.get("/version").json()["bundle_key"] == found["bundle_key"]
        assert admin.get(f"/v1/bundles/{wanted}").status_code == 200
    code, output, _ = publish(tmp_path / "b", server)
    assert (code, json.loads(output)["sent"], json.loads(output)["new"]) == (0, 0, False)


def test_a_killed_publish_continues_and_sends_no_finished_file_again(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    directory = large_bundle(tmp_path / "large", write_bundle, 128 << 20)
    wanted = bundle_id((directory / "splitfrozen.json").read_bytes())
    process = start(directory, server)
    incoming = server.data_dir / "incoming"
    place = incoming / f"default.{wanted}"
    while not ((place / "device.onnx").exists() and any(incoming.glob("*.part"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with server.client() as admin:
        assert admin.get(f"/v1/bundles/{wanted}").status_code == 404
    deadline = time.monotonic() + 20
    while any(incoming.glob("*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    arrived = {path.name for path in place.iterdir()}
    assert "device.onnx" in arrived
    code, output, errors = publish(directory, server)
    assert code == 0, errors
    left = [name for name in ("device.onnx", "device.onnx.data", "tokenizer.json")
            if name not in arrived]  # fmt: skip
    assert json.loads(output)["sent"] == sum((directory / name).stat().st_size for name in left)
    stored = server.data_dir / "bundles" / wanted / "device.onnx.data"
    assert stored.read_bytes() == (directory / "device.onnx.data").read_bytes()


def test_a_terminated_publish_says_that_it_continues(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    directory = large_bundle(tmp_path / "large", write_bundle, 128 << 20)
    process = start(directory, server)
    while not any((server.data_dir / "incoming").glob("*.part")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command" in errors and "Traceback" not in errors


def test_an_unknown_base_model_is_refused_with_what_to_do(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    write_bundle(tmp_path / "b", family="llama")
    code, output, errors = publish(tmp_path / "b", server)
    assert (code, output) == (3, "")
    assert "splitfrozen-server models add" in errors and "[base_model_mismatch]" in errors


def test_a_damaged_bundle_is_not_sent(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    write_bundle(tmp_path / "b", opset=20, tools={"x": "damaged"})
    (tmp_path / "b" / "tokenizer.json").write_bytes(b"[]")
    before = sorted((server.data_dir / "incoming").rglob("*"))
    code, _, errors = publish(tmp_path / "b", server)
    assert code == 1
    assert "tokenizer.json has SHA-256" in errors
    assert sorted((server.data_dir / "incoming").rglob("*")) == before


def test_a_wrong_token_is_the_server_s_refusal(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    write_bundle(tmp_path / "b", opset=20)
    code, _, errors = publish(tmp_path / "b", server, "--token", "sf_adm_wrong")
    assert code == 3
    assert "[unauthorized]" in errors


def test_the_local_token_goes_to_no_other_machine(
    server: ServerProcess, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    write_bundle(tmp_path / "b", opset=20)
    code, _, errors = publish(tmp_path / "b", server, "--server", "http://example.invalid:1")
    assert code == 2
    assert "this machine only" in errors


class Moody(BaseHTTPRequestHandler):
    """Answers with the next scripted status; `answers` and `seen` belong to the server."""

    def do_PUT(self) -> None:
        self.server.seen.append(self.rfile.read(int(self.headers["Content-Length"])))  # type: ignore[attr-defined]
        status = self.server.answers.pop(0)  # type: ignore[attr-defined]
        if status == 0:
            self.connection.close()
            return
        error = {"message": "busy", "code": "unavailable", "type": "server_error", "param": None}
        body = json.dumps({"missing": []} if status == 200 else {"error": error}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "3")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def moody() -> Iterator[Any]:
    found: Any = HTTPServer(("127.0.0.1", 0), Moody)
    found.answers, found.seen = [], []
    thread = Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_a_file_is_sent_again_from_its_start_after_a_busy_answer(
    moody: Any, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"weights")
    moody.answers = [503, 200]
    waits: list[float] = []
    url = f"http://127.0.0.1:{moody.server_port}"
    with ServerConnection(url, "t", wait=waits.append) as connection:
        assert connection.put_file("/x", tmp_path / "f", lambda _: None) == {"missing": []}
    assert moody.seen == [b"weights", b"weights"]
    assert waits == [3.0]  # what the server asked for


def test_a_foreign_server_is_a_refusal(moody: Any, tmp_path: Path, write_bundle: Any) -> None:
    write_bundle(tmp_path / "b", opset=20)
    moody.answers = [200]
    url = f"http://127.0.0.1:{moody.server_port}"
    connection = ServerConnection(url, "t", wait=lambda _: None)
    with connection, pytest.raises(RefusedError, match="no SplitFrozen server"):
        publish_bundle(tmp_path / "b", connection, lambda _: None, lambda *_: None)


@pytest.mark.parametrize("server", ["http://server.example", "http://10.0.0.1:8000"])
def test_a_token_does_not_travel_in_the_clear_unless_allowed(server: str, tmp_path: Path) -> None:
    with pytest.raises(SplitFrozenError, match="--allow-plain-http"):
        find_token(server, GIVEN, tmp_path)
    assert find_token(server, GIVEN, tmp_path, allow_plain_http=True) == GIVEN
    for safe in ("https://server.example", "http://127.0.0.1:8000", "http://localhost"):
        assert find_token(safe, GIVEN, tmp_path) == GIVEN


def test_a_server_that_stays_away_is_reported_after_some_attempts(moody: Any) -> None:
    moody.answers = [503] * ATTEMPTS
    waits: list[float] = []
    url = f"http://127.0.0.1:{moody.server_port}"
    connection = ServerConnection(url, "t", wait=waits.append)
    with connection, pytest.raises(RefusedError) as refused:
        connection.put("/x", b"y")
    assert (refused.value.code, len(waits), moody.answers) == ("unavailable", ATTEMPTS - 1, [])


def test_nobody_there_is_said_at_once_and_is_a_refusal_in_the_end() -> None:
    order: list[str] = []
    connection = ServerConnection(
        "http://127.0.0.1:1", "t", wait=lambda _: order.append("wait"), on_retry=order.append
    )
    with connection, pytest.raises(RefusedError, match=r"127\.0\.0\.1:1 does not answer"):
        connection.get("/version")
    assert order[1:] == ["wait"] * (ATTEMPTS - 1)
    assert "does not answer" in order[0]
    assert "trying again for up to 31 s" in order[0]


def test_the_origin_of_the_token_is_said(tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_text("secret\n")
    found = find_token("http://127.0.0.1:8000", None, tmp_path)
    assert (found.text, found.origin) == ("secret", str(tmp_path / "admin.token"))
