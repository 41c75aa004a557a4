"""A server on a LAN with its own authority, and a device that has nothing but the printed line."""

from __future__ import annotations

import json
import re
import shlex
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.stack import Device, Stack, run, write_rows


class TlsStack(Stack):
    """A server that listens beyond this machine, with what `tls init` made."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.url = f"https://127.0.0.1:{self.port}"
        words = ("--data-dir", self.data_dir, "--format", "json")
        made = run("splitfrozen-server", "tls", "init", "--host", "server.test", *words)
        self.pin: str = json.loads(made.stdout)["pin"]

    def wait_until_ready(self, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the server stopped:\n{self.log.read_text()}")
            try:
                authority = str(self.data_dir / "tls" / "ca.pem")
                if self.get("/health", authority).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError(f"the server is not ready:\n{self.log.read_text()}")

    def get(self, path: str, authority: str) -> httpx.Response:
        context = ssl.create_default_context(cafile=authority)
        return httpx.get(f"{self.url}{path}", timeout=5, verify=context)


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path], tiny_bundle: Path
) -> Iterator[TlsStack]:
    stack = TlsStack(tmp_path_factory.mktemp("server"))
    stack.start("--host", "0.0.0.0", "--no-worker")
    stack.admin("models", "add", "gpt2", tiny_model("gpt2"))
    stack.admin("bundles", "add", tiny_bundle)
    yield stack
    stack.stop()


def test_printed_line_enrols_and_the_device_pushes_rotates_and_forgets_over_tls(
    served: TlsStack, tmp_path: Path
) -> None:
    words = ("--server", served.url, "--data-dir", served.data_dir)
    made = run("splitfrozen-server", "tokens", "create", "--role", "enrol", "--uses", 1, *words)
    line = re.search(r"^  (splitfrozen-edge enroll .*)$", made.stderr, re.MULTILINE)
    assert line and made.stdout.strip() in line[1] and served.pin in line[1]
    assert f"https://server.test:{served.port}" in line[1], "not the operator's localhost"
    device = Device(tmp_path / "device")
    printed = line[1].replace("server.test", "127.0.0.1")  # no name server of ours knows it
    device.run(*shlex.split(printed)[1:], "--name", "pi")
    stored = json.loads((device.state / "device.json").read_text())
    assert stored["pin"] == served.pin and len(stored["bundle_key"]) == 64

    bundle = served.admin("bundles", "list")[0]["id"]
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(6)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    assert device.push(bundle, "talk", data)["uploaded_examples"] == 6
    assert (device.state / "bundles" / bundle / "splitfrozen.sig").exists()

    run("splitfrozen-edge", "token", "rotate", "--state-dir", device.state)
    rotated = json.loads((device.state / "device.json").read_text())
    assert rotated["token"] != stored["token"]
    assert stat.S_IMODE((device.state / "device.json").stat().st_mode) == 0o600
    write_rows(data, [*rows, {"prompt": "one", "completion": "more"}])
    assert device.push(bundle, "talk", data)["uploaded_examples"] == 1

    shown = served.admin("devices", "list")[0]
    assert shown["profile"]["versions"]["onnxruntime"] and shown["profile"]["cores"] >= 1
    device.run("forget", "--yes")
    assert served.admin("datasets", "get", "talk")["examples"] == 0
    assert not (device.state / "bundles").exists()


def test_server_gives_its_authority_to_everybody_and_refuses_plain_http(served: TlsStack) -> None:
    authority = served.data_dir / "tls" / "ca.pem"
    assert served.get("/v1/ca", str(authority)).content == authority.read_bytes()
    assert "PRIVATE" not in served.get("/v1/ca", str(authority)).text
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{served.port}/health", timeout=5)


def test_certificate_is_renewed_at_a_start_when_it_is_due(served: TlsStack) -> None:
    from splitfrozen_server.tls import RENEW_DAYS, read_tls, renew_tls, renew_when_due

    directory = served.data_dir / "tls"
    fresh = read_tls(directory)
    assert renew_when_due(directory) == fresh
    due = renew_tls(directory, [], days=RENEW_DAYS - 1)
    renewed = renew_when_due(directory)
    assert renewed.server_until > due.server_until and renewed.hosts == fresh.hosts
    (directory / "ca.key").rename(directory / "elsewhere")
    old = renew_when_due(directory)
    assert old == renewed
    (directory / "elsewhere").rename(directory / "ca.key")
