"""A server, or what stands before it, that refuses, breaks off, changes: what becomes of a push."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from splitfrozen import Shard, digest, encode
from splitfrozen.errors import RefusedError
from splitfrozen_edge.cli import main
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.http.refusals import ForeignRefusal
from splitfrozen_edge.http.retry import RetryPolicy, parse_retry_after
from splitfrozen_edge.pushing.file import PushRequest, push_file
from splitfrozen_edge.pushing.verdicts import Verdict, judge
from splitfrozen_edge.state import StateDirectory
from tests.edge.breaking_proxy import breaking_proxy
from tests.edge.conftest import NewClient, write_sentences
from tests.edge.protocol_server import DEVICE_TOKEN, Fault, ProtocolServer
from tests.edge.tiny_bundle import CUT, WIDTH, embedding, write_bundle

ROWS = 300  # three shards


@pytest.fixture
def request_(tmp_path: Path, encoder_bundle: Path) -> PushRequest:
    data = write_sentences(tmp_path / "data.jsonl", ROWS)
    return PushRequest(data, "d", bundle=str(encoder_bundle))


def once(server: ProtocolServer, dataset: str = "ds_0") -> int:
    """How many examples are stored; none twice."""
    found = server.example_ids(dataset)
    assert len(found) == len(set(found))
    return len(found)


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "bad_shape"), (409, "dataset_mismatch"), (413, "too_large"), (422, "bad_lengths")],
)
def test_a_shard_that_is_refused_for_good_is_set_aside_and_the_others_go_on(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer,
    status: int, code: str,
) -> None:  # fmt: skip
    server.script("PUT", Fault("refuse", status, code))
    report = push_file(request_, state, client)
    assert len(server.bodies()) == 3  # it was sent once
    assert [(item.code, item.shards) for item in report.refusals] == [(code, 1)]
    assert report.parked_examples == 128
    assert once(server) == ROWS - 128
    again = push_file(request_, state, client)
    assert len(server.bodies()) == 3
    assert again.parked_examples == 128  # told as long as it is so
    outbox = state.outbox()
    outbox.retry()
    outbox.close()
    assert not push_file(request_, state, client).refusals
    assert once(server) == ROWS


@pytest.mark.parametrize(
    "fault",
    [
        Fault("refuse", 429, "rate_limited"),
        Fault("refuse", 500, "internal_error"),
        Fault("refuse", 503, "unavailable"),
        Fault("refuse", 507, "insufficient_storage"),
        Fault("refuse", 502, "from a proxy"),
        Fault("refuse", 422, "digest_mismatch"),
        Fault("refuse", 400, "truncated"),
        Fault("garbage"),
        Fault("after"),
        Fault("before"),
        Fault("wrong"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.code}",
)
def test_what_passes_is_waited_for(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer,
    fault: Fault,
) -> None:  # fmt: skip
    server.script("PUT", fault, fault)
    report = push_file(request_, state, client)
    assert not report.refusals
    assert once(server) == ROWS


def test_bytes_that_break_each_time_are_sent_three_times_and_set_aside(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer
) -> None:
    server.script("PUT", *[Fault("refuse", 422, "digest_mismatch")] * 3)
    report = push_file(request_, state, client)
    assert len(server.bodies()) == 5
    assert [(item.code, item.shards) for item in report.refusals] == [("digest_mismatch", 1)]


@pytest.mark.parametrize("code", ["unauthorized", "forbidden"])
def test_a_token_that_is_revoked_in_the_middle_stops_all_and_loses_nothing(
    request_: PushRequest, state: StateDirectory, new_client: NewClient, server: ProtocolServer,
    code: str,
) -> None:  # fmt: skip
    server.script("PUT", Fault("none"), *[Fault("refuse", 401, code)] * 9)
    with pytest.raises(RefusedError) as caught:
        push_file(request_, state, new_client())
    assert caught.value.code == code
    assert len(server.bodies()) == 2
    server.faults.clear()
    report = push_file(request_, state, new_client())
    assert not report.refusals
    assert once(server) == ROWS


def seal(server: ProtocolServer, dataset: str) -> None:
    server.datasets[dataset]["sealed"] = True


def delete(server: ProtocolServer, dataset: str) -> None:
    del server.datasets[dataset]


@pytest.mark.parametrize(("change", "code"), [(seal, "dataset_sealed"), (delete, "not_found")])
def test_a_dataset_that_takes_nothing_more_parks_all_of_it_at_once(
    request_: PushRequest, state: StateDirectory, client: Client, server: ProtocolServer,
    change: Callable[[ProtocolServer, str], None], code: str,
) -> None:  # fmt: skip
    dataset = server.add_dataset("d", "classification")
    after_the_first(server, lambda: change(server, dataset))
    with pytest.raises(RefusedError, match="are set aside") as caught:
        push_file(request_, state, client)
    assert caught.value.code == code
    assert len(server.bodies()) == 2
    outbox = state.outbox()
    assert outbox.next(dataset) is None
    assert {entry.code for entry in outbox.entries()} == {code}
    outbox.close()


def after_the_first(server: ProtocolServer, change: Callable[[], object]) -> None:
    """Change something when the first shard is stored."""
    store = server._store

    def stored(*values: Any) -> tuple[int, Any]:
        answer = store(*values)
        if len(server.bodies()) == 1:
            change()
        return answer

    server._store = stored  # type: ignore[method-assign]


def test_a_bundle_that_is_replaced_while_pushing_ends_clearly_and_the_next_push_uses_the_new_one(
    tmp_path: Path, state: StateDirectory, new_client: NewClient, server: ProtocolServer
) -> None:
    old = write_bundle(tmp_path / "old", table=embedding(1))
    new = write_bundle(tmp_path / "new", table=embedding(2))
    server.bundles.clear()
    old_id = server.publish(old)
    dataset = server.add_dataset("d", "classification")

    def publish_the_new_one() -> None:
        server.bundles.clear()
        server.publish(new)

    after_the_first(server, publish_the_new_one)
    request = PushRequest(write_sentences(tmp_path / "data.jsonl", ROWS), "d")
    with pytest.raises(RefusedError, match="the same command computes their rows") as caught:
        push_file(request, state, new_client())
    assert caught.value.code == "unknown_bundle"
    report = push_file(request, state, new_client())
    assert report.bundle != old_id
    assert not report.refusals  # nothing is left of the old shards
    assert once(server, dataset) == ROWS
    assert {shard.bundle for shard in server.shards[dataset].values()} == {old_id, report.bundle}


def big_shard(server: ProtocolServer, dataset: str) -> tuple[bytes, str]:
    """(body, digest) of bytes that nothing compresses."""
    rng = np.random.default_rng(1)
    tokens = 12_000
    shard = Shard(
        bundle=next(iter(server.bundles)),
        dataset=dataset,
        cut=CUT,
        codec="int8",
        task="classification",
        hidden=rng.integers(-127, 128, (tokens, WIDTH)).astype(np.int8),
        lengths=np.full(100, tokens // 100, np.int32),
        scale=rng.random((tokens, 1)).astype(np.float16),
        example_ids=rng.integers(0, 256, (100, 16)).astype(np.uint8),
        labels=np.zeros(100, np.int32),
    )
    body = encode(shard)
    return body, digest(body)


def test_a_reset_at_every_tenth_of_a_body_ends_in_one_shard(server: ProtocolServer) -> None:
    dataset = server.add_dataset("d", "classification", ["a"])
    body, name = big_shard(server, dataset)
    with breaking_proxy(server.url) as proxy:

        def put(*limits: int) -> None:
            """The first connections are reset after so many bytes."""
            proxy.limits[:] = limits
            policy = RetryPolicy(draw=lambda: 0.5)
            client = Client(proxy.url, DEVICE_TOKEN, policy=policy, wait=lambda seconds: None)
            assert client.put_shard(dataset, name, body)["digest"] == name
            client.close()

        put()
        (whole,) = server.bodies()
        for tenth in range(11):
            server.shards[dataset].clear()
            # Some bytes of headers come first: the last bytes of the body never pass.
            put(*[200 + len(whole) * tenth // 10] * 2)
            assert list(server.shards[dataset]) == [name]
        assert proxy.resets == 2 * 11
        assert set(server.bodies()) == {whole, b""}  # nothing, where the headers were cut


def test_an_answer_that_comes_too_late_is_asked_for_again_and_nothing_is_stored_twice(
    request_: PushRequest,
    state: StateDirectory,
    client: Client,
    server: ProtocolServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, late = server._store, [1.0]

    def slowly(*values: Any) -> tuple[int, Any]:
        answer = store(*values)
        time.sleep(late.pop() if late else 0)
        return answer

    monkeypatch.setattr(server, "_store", slowly)
    client._http.timeout = 0.3  # seconds
    assert push_file(request_, state, client).uploaded_examples == ROWS
    (dataset,) = server.shards
    found = server.example_ids(dataset)
    assert len(found) == len(set(found)) == ROWS
    assert len(server.bodies()) > len(server.shards[dataset])  # it was sent again


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(item) for item in arguments])


def push_arguments(request_: PushRequest, state: StateDirectory) -> list[str | Path]:
    fixed: list[str | Path] = ["push", "--state-dir", state.path, "--threads", "1"]
    fixed += ["--retry-for", "0", "--dataset", "d", "--data", request_.data]
    return [*fixed, "--bundle", str(request_.bundle)]


def test_a_name_that_is_not_found_ends_with_3_and_loses_nothing(
    request_: PushRequest, state: StateDirectory, server: ProtocolServer
) -> None:
    server.script("PUT", *[Fault("refuse", 503)] * 9)
    assert run(*push_arguments(request_, state)).exit_code == 3
    enrolment = state.enrolment()
    state.store_enrolment(replace(enrolment, server="http://splitfrozen.invalid"))
    lost = run(*push_arguments(request_, state))
    assert lost.exit_code == 3
    assert "cannot reach http://splitfrozen.invalid" in lost.stderr
    state.store_enrolment(enrolment)
    server.faults.clear()
    assert run(*push_arguments(request_, state)).exit_code == 0
    assert once(server) == ROWS


def test_a_push_with_refused_rows_ends_with_3_until_they_are_dropped(
    request_: PushRequest, state: StateDirectory, server: ProtocolServer
) -> None:
    server.script("PUT", Fault("refuse", 422, "bad_lengths"))
    arguments = push_arguments(request_, state)
    refused = run(*arguments, "--format", "json")
    assert refused.exit_code == 3
    assert json.loads(refused.stdout)["parked_examples"] == 128
    assert "the server refuses 128 examples in 1 shards for good: scripted" in refused.stderr
    home = ("--state-dir", state.path)
    listed = json.loads(run("queue", "list", *home, "--format", "json").stdout)
    (shard,) = listed["shards"]
    assert (shard["state"], shard["code"], shard["message"]) == (
        "refused", "bad_lengths", "scripted",
    )  # fmt: skip
    assert listed["datasets"][0]["parked_examples"] == 128
    assert run(*arguments).exit_code == 3
    assert run("queue", "drop", "--refused", "--yes", *home).exit_code == 0
    assert run(*arguments).exit_code == 0
    assert once(server) == ROWS


def test_what_waits_for_long_is_told_at_the_end_of_a_push(
    request_: PushRequest, state: StateDirectory, server: ProtocolServer
) -> None:
    server.script("PUT", Fault("refuse", 422, "bad_lengths"))
    told = run(*push_arguments(request_, state), "--max-age", "0")
    assert "128 examples in 1 shards wait for more than 0 days" in told.stderr
    assert "queue drop --older-than 0" in told.stderr


def test_refused_shards_are_chosen_by_dataset_or_digest(
    request_: PushRequest, state: StateDirectory, server: ProtocolServer
) -> None:
    server.script("PUT", *[Fault("refuse", 422, "bad_lengths")] * 2)
    assert run(*push_arguments(request_, state)).exit_code == 3
    home = ("--state-dir", state.path)
    shown = run("queue", "list", *home).stdout
    assert shown.count("scripted [bad_lengths]") == 2
    name = shown.splitlines()[1].split()[0]
    assert "1 shard wait" in run("queue", "retry", "--shard", name, *home).stdout
    assert run("queue", "retry", "--shard", "zz", *home).exit_code == 2
    assert run("queue", "retry", "--dataset", "nowhere", *home).exit_code == 2
    assert "1 shard wait" in run("queue", "retry", "--dataset", "d", *home).stdout
    assert run("queue", "drop", *home).exit_code == 2  # says nothing of what
    none = run("queue", "drop", "--older-than", "1", "--yes", *home)
    assert "dropped 0 examples" in none.stdout
    assert run(*push_arguments(request_, state)).exit_code == 0
    assert once(server) == ROWS


class TlsFront:
    """A TLS end before the protocol server, whose certificate can be changed."""

    def __init__(self, server_url: str, certificate: Path) -> None:
        self.context = context(certificate)
        self.target = int(server_url.rsplit(":", 1)[1])

    def serve(self, listener: socket.socket) -> None:
        """Accept until the listener is shut down."""
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            try:
                client = self.context.wrap_socket(raw, server_side=True)
            except OSError:
                raw.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=pump, args=(client, server), daemon=True).start()
            threading.Thread(target=pump, args=(server, client), daemon=True).start()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy until either end closes, then close both."""
    with suppress(OSError, ValueError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def context(certificate: Path) -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return found


def make_certificate(path: Path) -> Path:
    openssl = shutil.which("openssl")
    assert openssl, "install openssl: this test makes a certificate with it"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", path.with_suffix(".key"), "-out", path, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


def test_a_certificate_that_changes_while_pushing_ends_the_push_and_loses_nothing(
    tmp_path: Path, request_: PushRequest, state: StateDirectory, server: ProtocolServer
) -> None:
    good, other = (make_certificate(tmp_path / name) for name in ("good.pem", "other.pem"))
    front = TlsFront(server.url, good)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=front.serve, args=(listener,))
        thread.start()
        url = f"https://localhost:{listener.getsockname()[1]}"

        def push() -> None:
            client = Client(url, DEVICE_TOKEN, ca_file=good, wait=lambda seconds: None)
            try:
                push_file(request_, state, client)
            finally:
                client.close()

        after_the_first(server, lambda: setattr(front, "context", context(other)))
        # The second shard's connection breaks, so that the client makes a new one.
        server.script("PUT", Fault("none"), *[Fault("before")] * 2)
        with pytest.raises(RefusedError, match=r"(?i)certificate"):
            push()
        stored = once(server)
        front.context = context(good)
        server.faults.clear()
        push()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert 0 < stored < ROWS
    assert once(server) == ROWS


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (RefusedError("unavailable", ""), Verdict.WAIT),
        (RefusedError("unauthorized", ""), Verdict.STOP),
        (RefusedError("bad_dtype", ""), Verdict.PARK),
        (RefusedError("dataset_sealed", ""), Verdict.PARK_DATASET),
        (RefusedError("unknown_bundle", ""), Verdict.PARK_BUNDLE),
        (RefusedError("truncated", ""), Verdict.RESEND),
        (ForeignRefusal("too_large", "", 413), Verdict.PARK),
        (ForeignRefusal("invalid_request", "", 302), Verdict.STOP),
        (ForeignRefusal("not_found", "", 404), Verdict.STOP),
        (ForeignRefusal("forbidden", "", 403), Verdict.STOP),
    ],
)
def test_every_refusal_has_a_verdict(error: RefusedError, verdict: Verdict) -> None:
    assert judge(error) is verdict


def test_retry_after_may_be_a_date_by_the_servers_clock() -> None:
    now = "Thu, 01 Jan 2026 00:00:00 GMT"
    assert parse_retry_after("Thu, 01 Jan 2026 00:01:30 GMT", now) == 90.0
    assert parse_retry_after("Wed, 31 Dec 2025 23:00:00 GMT", now) == 0.0
    assert parse_retry_after("soon", now) is None
    local = parse_retry_after(formatdate(time.time() + 100, usegmt=True), None)
    assert local is not None
    assert 0 < local <= 100
    assert parse_retry_after("-1", now) is None
