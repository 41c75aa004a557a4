"""The process: what it prints, where it listens, how it ends, and that torch stays out."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from splitfrozen.manifest import BaseModel
from tests.server.stack import ServerProcess, run_command

Serve = Callable[..., ServerProcess]


def test_health_ready_and_version(server: ServerProcess) -> None:
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    ready = httpx.get(f"{server.url}/ready").json()
    assert (ready["database"], ready["worker"]) == ("ok", "disabled")
    assert httpx.get(f"{server.url}/version").json()["protocols"] == ["1"]


def test_unknown_route_and_wrong_method_are_refused_in_the_one_shape(
    server: ServerProcess,
) -> None:
    missing = httpx.get(f"{server.url}/v1/nothing")
    wrong = httpx.put(f"{server.url}/v1/tokens")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "invalid_request")


def test_every_answer_names_the_protocol(server: ServerProcess) -> None:
    assert httpx.get(f"{server.url}/v1/bundles").headers["SplitFrozen-Protocol"] == "1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_cleanly(serve: Serve, number: int) -> None:
    server = serve()
    assert server.stop(number) == 0
    assert not list((server.data_dir / "run").iterdir())


def test_stale_sockets_of_a_killed_server_do_not_hinder(serve: Serve) -> None:
    first = serve()
    assert (first.data_dir / "run" / "control.sock").is_socket()
    first.kill()
    assert (first.data_dir / "run" / "control.sock").exists()
    second = serve()
    assert httpx.get(f"{second.url}/health").status_code == 200


def test_control_socket_is_for_its_user_only(server: ServerProcess) -> None:
    run = server.data_dir / "run"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert stat.S_IMODE((run / "control.sock").stat().st_mode) == 0o600


def test_data_directory_is_for_its_user_only(serve: Serve, data_dir: Path) -> None:
    data_dir.chmod(0o755)  # as an earlier version left it
    serve()
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    made = [data_dir / "run", data_dir / "files", data_dir / "lock"]
    assert [path.name for path in made if path.stat().st_mode & 0o077] == []


def test_data_directory_too_deep_for_a_socket_works(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / ("d" * 90) / "state")
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert not (server.data_dir / "run").exists()
    assert server.stop() == 0


def test_second_server_on_the_same_data_is_refused(server: ServerProcess) -> None:
    second = run_command("serve", "--data-dir", str(server.data_dir), "--port", "0", "--no-worker")
    assert second.returncode == 1 and "another server is using" in second.stderr


def test_taken_port_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = run_command("serve", "--data-dir", str(tmp_path / "s"), "--port", port)
    assert found.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in found.stderr and "Traceback" not in found.stderr


def test_address_beyond_loopback_needs_tls_or_consent(tmp_path: Path) -> None:
    refused = run_command("serve", "--data-dir", str(tmp_path / "s"), "--host", "0.0.0.0")
    assert refused.returncode == 2 and "--allow-plain-http" in refused.stderr
    assert not (tmp_path / "s").exists()


def test_consent_to_plain_http_warns_at_every_start(serve: Serve) -> None:
    for _ in range(2):
        server = serve("--host", "0.0.0.0", "--allow-plain-http")
        assert any("WARNING: plain HTTP" in line for line in server.lines)
        server.stop()


def test_tls_files_give_https(tmp_path: Path) -> None:
    cert, key = _certificate(tmp_path)
    server = ServerProcess(
        tmp_path / "s", "--host", "0.0.0.0", "--tls-cert", str(cert), "--tls-key", str(key)
    )
    context = ssl.create_default_context(cafile=str(cert))
    url = server.url.replace("0.0.0.0", "localhost")
    assert httpx.get(f"{url}/health", verify=context).json() == {"status": "ok"}
    listed = run_command(
        *("datasets", "list", "--server", url, "--ca", str(cert), "--format", "json"),
        *("--data-dir", str(tmp_path / "s")),
    )
    assert (listed.returncode, listed.stdout.strip()) == (0, "[]"), listed.stderr
    assert server.stop() == 0


def test_tls_key_without_certificate_is_wrong_usage(tmp_path: Path) -> None:
    _, key = _certificate(tmp_path)
    found = run_command("serve", "--data-dir", str(tmp_path / "s"), "--tls-key", str(key))
    assert found.returncode == 2 and "go together" in found.stderr


def test_bundle_that_cannot_be_registered_ends_the_start_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    found = run_command("serve", "--data-dir", str(tmp_path / "s"), "--bundle", str(tmp_path / "b"))
    assert found.returncode == 1 and "[missing_file]" in found.stderr


def test_bundle_of_a_directory_that_is_not_here_says_how_to_name_it(
    write_bundle: Callable[..., str], tmp_path: Path
) -> None:
    write_bundle(tmp_path / "b", base_model=BaseModel("nobody/nothing-here", None))
    found = run_command(
        *("serve", "--data-dir", str(tmp_path / "s"), "--bundle", str(tmp_path / "b")),
        environment={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
    )
    assert found.returncode == 1 and "--model; or start serve without --bundle" in found.stderr


def test_worker_is_restarted_when_it_dies_and_ends_with_the_server(serve: Serve) -> None:
    server = serve(worker=True)
    first = _wait_for_worker(server, other_than=None)
    first.kill()
    second = _wait_for_worker(server, other_than=first.pid)
    assert server.stop() == 0
    assert not second.is_running() or second.status() == psutil.STATUS_ZOMBIE


def test_api_process_never_imports_torch() -> None:
    code = (
        "import sys, splitfrozen_server.serve, splitfrozen_server.cli\n"
        "heavy = {'torch', 'transformers', 'peft', 'onnxruntime', 'splitfrozen_export'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def _wait_for_worker(server: ServerProcess, *, other_than: int | None) -> psutil.Process:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(server.process.pid).children():
            if child.pid != other_than and "splitfrozen_server.worker" in child.cmdline():
                return child
        time.sleep(0.05)
    raise AssertionError("no worker was started")


def _certificate(directory: Path) -> tuple[Path, Path]:
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key)),
            *("-addext", "subjectAltName=DNS:localhost", "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key
