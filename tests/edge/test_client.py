"""Retries, refusals and receipts against a real server that misbehaves."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitfrozen.errors import CODES, RefusedError
from splitfrozen_edge.http.chunks import CHUNK, Chunks
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.http.refusals import TransientError, read_refusal
from splitfrozen_edge.http.retry import RetryPolicy, parse_retry_after
from splitfrozen_edge.state import StateError
from tests.edge.conftest import NewClient
from tests.edge.protocol_server import DEVICE_TOKEN, ENROL_TOKEN, Fault, ProtocolServer
from tests.edge.shards import small_body


@pytest.mark.parametrize(
    "fault",
    [
        Fault("refuse", 503),
        Fault("refuse", 429, "rate_limited"),
        Fault("refuse", 507, "insufficient_storage"),
        Fault("refuse", 502, "no code of ours"),
        Fault("before"),
        Fault("after"),
        Fault("wrong"),
        Fault("garbage"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_a_retry_sends_the_same_bytes(
    server: ProtocolServer, new_client: NewClient, fault: Fault
) -> None:
    dataset = server.add_dataset("d", "classification", ["a"])
    body, name = small_body(server, dataset)
    server.script("PUT", fault, fault)
    waits: list[float] = []
    receipt = new_client(waits).put_shard(dataset, name, body)
    assert receipt["digest"] == name
    sent = server.bodies()
    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert list(server.shards[dataset]) == [name]
    assert waits == [0.25, 0.5]  # half of 0.5 s, half of 1 s: exponential with full jitter


def test_retry_after_is_a_lower_bound(server: ProtocolServer, new_client: NewClient) -> None:
    dataset = server.add_dataset("d", "classification", ["a"])
    body, name = small_body(server, dataset)
    server.script("PUT", Fault("refuse", 503, retry_after="7"))
    waits: list[float] = []
    new_client(waits).put_shard(dataset, name, body)
    assert waits == [7.25]


def test_a_longer_retry_after_than_patience_is_reported_at_once(
    server: ProtocolServer, new_client: NewClient
) -> None:
    server.script("GET", Fault("refuse", 503, retry_after="3600"))
    waits: list[float] = []
    with pytest.raises(RefusedError) as caught:
        new_client(waits).dataset("d")
    assert caught.value.code == "unavailable"
    assert waits == []


def test_patience_ends(server: ProtocolServer, new_client: NewClient) -> None:
    server.script("GET", *[Fault("before")] * 50)
    waits: list[float] = []
    with pytest.raises(RefusedError, match="cannot reach http://127"):
        new_client(waits).dataset("d")
    assert 15 < sum(waits) <= 20


@pytest.mark.parametrize("code", ["unauthorized", "dataset_sealed", "too_large", "bad_lengths"])
def test_a_final_refusal_is_not_retried(
    server: ProtocolServer, new_client: NewClient, code: str
) -> None:
    dataset = server.add_dataset("d", "classification", ["a"])
    body, name = small_body(server, dataset)
    server.script("PUT", Fault("refuse", CODES[code].status, code))
    with pytest.raises(RefusedError) as caught:
        new_client().put_shard(dataset, name, body)
    assert caught.value.code == code
    assert len(server.bodies()) == 1


def test_bodies_are_compressed_when_that_is_smaller(
    server: ProtocolServer, new_client: NewClient
) -> None:
    dataset = server.add_dataset("d", "classification", ["a"])
    body, name = small_body(server, dataset)
    client = new_client()
    client.put_shard(dataset, name, body)
    (seen,) = [seen for seen in server.requests if seen.method == "PUT"]
    assert seen.headers["content-encoding"] == "zstd"
    assert client.bytes_up == len(seen.body) < len(body)


def test_an_enrolment_that_may_have_arrived_is_not_repeated(
    server: ProtocolServer, new_client: NewClient
) -> None:
    client = new_client(token=ENROL_TOKEN)
    server.script("POST", Fault("after"))
    with pytest.raises(RefusedError, match="cannot reach"):
        client.enroll("pi", {})
    assert server.devices == 1
    server.script("POST", Fault("refuse", 503))
    assert client.enroll("pi", {})["id"] == "dev_2"


@pytest.mark.parametrize(
    "fault",
    [Fault("refuse", status, "no code of ours") for status in (500, 502, 504)] + [Fault("garbage")],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_an_enrolment_that_a_proxy_answered_is_not_repeated(
    server: ProtocolServer, new_client: NewClient, fault: Fault
) -> None:
    server.script("POST", fault)
    with pytest.raises(RefusedError):
        new_client(token=ENROL_TOKEN).enroll("pi", {})
    assert len(server.requests) == 1


def test_a_forbidden_dataset_is_not_a_missing_one(server: ProtocolServer, client: Client) -> None:
    server.script("GET", Fault("refuse", 403, "forbidden"))
    with pytest.raises(RefusedError) as caught:
        client.dataset("d")
    assert caught.value.code == "forbidden"


def test_patience_counts_attempts_that_hang() -> None:
    policy = RetryPolicy(patience=0.05, draw=lambda: 0.0)  # never waits by itself
    client = Client("http://127.0.0.1:9", "t", policy=policy)
    tries = iter(range(100))

    def attempt() -> None:
        next(tries)
        time.sleep(0.02)
        raise TransientError(RefusedError("unavailable", "it hangs"))

    with pytest.raises(RefusedError, match="it hangs"):
        client.retrying(attempt)
    client.close()


@pytest.mark.parametrize("server", ["http://host:port", "http://x..y"])
def test_a_url_that_is_none_is_the_users_error(server: str) -> None:
    with pytest.raises(StateError, match="check its URL"):
        Client(server, "t")


def test_a_dataset_that_appears_meanwhile_is_used(server: ProtocolServer, client: Client) -> None:
    dataset = server.add_dataset("d", "classification")
    found = client.create_dataset("d", bundle=next(iter(server.bundles)), task="classification")
    assert found["id"] == dataset


def test_nothing_listens() -> None:
    waits: list[float] = []
    client = Client("http://127.0.0.1:9", "t", policy=RetryPolicy(patience=3), wait=waits.append)
    with pytest.raises(RefusedError, match="cannot reach"):
        client.enroll("pi", {})
    client.close()
    assert waits


def test_an_outage_is_told_once_and_a_later_one_again() -> None:
    told: list[tuple[str, float]] = []
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)

    policy = RetryPolicy(patience=30, draw=lambda: 0.5)
    client = Client(
        "http://127.0.0.1:9",
        "t",
        policy=policy,
        wait=wait,
        on_wait=lambda failure, seconds: told.append((failure.message, seconds)),
    )
    for _ in range(2):
        fails = iter(range(5))

        def attempt(fails: Iterator[int] = fails) -> None:
            if next(fails, None) is not None:
                raise TransientError(RefusedError("unavailable", "it is away"))

        client.retrying(attempt)
    client.close()
    assert [message for message, _ in told] == ["it is away"] * 2
    assert 28 < told[0][1] <= 30 and len(waits) == 10


@given(status=st.integers(400, 599), body=st.binary(max_size=60), retry=st.text(max_size=5))
def test_any_answer_gives_an_error_of_the_table(status: int, body: bytes, retry: str) -> None:
    found = read_refusal(status, {"retry-after": retry}, body)
    failure = found.failure if isinstance(found, TransientError) else found
    assert failure.code in CODES


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_within_its_bounds(attempt: int, luck: float) -> None:
    policy = RetryPolicy(base=0.5, cap=60, draw=lambda: luck)
    assert 0 <= policy.delay(attempt) <= min(60, 0.5 * 2.0 ** min(attempt - 1, 30))
    assert 5 <= policy.delay(attempt, 5.0) <= 10


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "nan", "inf", "Wed, 21 Oct 2026"])
def test_an_odd_retry_after_is_ignored(value: str | None) -> None:
    assert parse_retry_after(value) is None


def test_a_wrong_certificate_is_final_and_a_ca_file_accepts_it(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    assert openssl, "install openssl: this test makes a certificate with it"
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    with HTTPServer(("127.0.0.1", 0), _Hello) as http:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        http.socket = context.wrap_socket(http.socket, server_side=True)
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}).start()
        url = f"https://localhost:{http.server_port}"
        waits: list[float] = []
        suspicious = Client(url, DEVICE_TOKEN, wait=waits.append)
        try:
            with pytest.raises(RefusedError, match="CERTIFICATE_VERIFY_FAILED"):
                suspicious.dataset("d")
            assert waits == []
            suspicious.close()
            trusting = Client(url, DEVICE_TOKEN, ca_file=certificate)
            assert trusting.call("GET", "/version") == {}
            trusting.close()
        finally:
            http.shutdown()


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer anything with an empty object."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the test's output."""


def test_a_throttle_hears_every_byte_before_it_is_sent_and_nothing_else_changes(
    server: ProtocolServer, client: Client
) -> None:
    dataset = server.add_dataset("d", "classification", ["a"])
    body, name = small_body(server, dataset)
    client.put_shard(dataset, name, body)
    server.shards[dataset].clear()
    heard: list[int] = []
    client.throttle = heard.append
    assert client.put_shard(dataset, name, body)["digest"] == name
    plain, throttled = (seen for seen in server.requests if seen.method == "PUT")
    assert plain.body == throttled.body and sum(heard) == len(plain.body)
    assert throttled.headers["content-length"] == plain.headers["content-length"]
    assert "transfer-encoding" not in throttled.headers


def test_a_throttled_retry_sends_the_same_bytes(server: ProtocolServer, client: Client) -> None:
    dataset = server.add_dataset("d", "classification", ["a"])
    body, name = small_body(server, dataset)
    server.script("PUT", Fault("refuse", 503), Fault("after"))
    heard: list[int] = []
    client.throttle = heard.append
    client.put_shard(dataset, name, body)
    assert len(set(server.bodies())) == 1 and sum(heard) == 3 * len(server.bodies()[0])
    assert client.sent_bytes == len(server.bodies()[0]) and client.sent_seconds > 0


def test_chunks_of_a_throttled_body_are_small_and_can_be_sent_again() -> None:
    heard: list[int] = []
    content = bytes(range(256)) * 1000
    chunks = Chunks(content, heard.append)
    for _ in range(2):
        assert b"".join(chunks) == content
    assert max(heard) == CHUNK and sum(heard) == 2 * len(content)


def test_a_throttle_that_raises_ends_the_upload(server: ProtocolServer, client: Client) -> None:
    dataset = server.add_dataset("d", "classification", ["a"])
    body, name = small_body(server, dataset)

    def stop(size: int) -> None:
        raise KeyboardInterrupt

    client.throttle = stop
    with pytest.raises(KeyboardInterrupt):
        client.put_shard(dataset, name, body)
    client.throttle = None
    assert client.put_shard(dataset, name, body)["digest"] == name
