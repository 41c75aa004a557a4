"""The doctor on the way to the server: real sockets, real certificates, every stage going wrong."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from splitfrozen_edge.checkup.doctor.findings import Finding
from splitfrozen_edge.checkup.doctor.network import check_network, check_proxy, server_of
from splitfrozen_edge.state import Enrolment
from tests.edge.doctor_server import TOKEN, Authority, Behaviour, serving

Found = dict[str, Finding]
Look = Callable[..., Found]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def open_servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def look(open_servers: ExitStack) -> Look:
    """Start a server and go to it; the findings by check."""

    def examine(
        behaviour: Behaviour | None = None,
        certificate: Path | None = None,
        ca_file: Path | None = None,
        *,
        scheme: str | None = None,
        token: str = TOKEN,
        pin: str | None = None,
    ) -> Found:
        port = open_servers.enter_context(serving(behaviour or Behaviour(), certificate))
        scheme = scheme or ("https" if certificate else "http")
        return visit(f"{scheme}://127.0.0.1:{port}", ca_file, token=token, pin=pin)

    return examine


def visit(
    url: str,
    ca_file: Path | None = None,
    *,
    token: str = TOKEN,
    pin: str | None = None,
    seconds: float = 10.0,
) -> Found:
    enrolment = Enrolment(url, "dev_1", "pi", token, str(ca_file) if ca_file else None, pin)
    server = server_of(enrolment)
    assert server is not None
    found = list(check_network(server, seconds=seconds))
    assert all(TOKEN not in f"{item.found}{item.advice}" for item in found)
    return {item.check: item for item in found}


def test_a_healthy_server_over_tls(look: Look, authority: Authority) -> None:
    found = look(certificate=authority.certificate(), ca_file=authority.file)
    assert list(found) == [
        "name", "connection", "certificate", "server", "server-clock", "ready", "token",
    ]  # fmt: skip
    assert {item.status for item in found.values()} == {"ok"}
    assert "88 more days" in found["certificate"].found


def test_a_name_that_does_not_exist() -> None:
    found = visit("http://splitfrozen.invalid:8000")
    assert list(found) == ["name"]
    assert found["name"].status == "fail"
    assert "splitfrozen.invalid has no address" in found["name"].found


def test_a_port_on_which_nothing_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        found = visit(f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert list(found) == ["name", "connection"]
    assert found["connection"].status == "fail"
    assert "refuses" in found["connection"].found
    advice = found["connection"].advice
    assert "splitfrozen-server serve" in advice and "0.0.0.0" not in advice


def test_a_machine_that_does_not_answer() -> None:
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # a full backlog: the kernel drops what comes
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        found = visit(f"http://127.0.0.1:{full.getsockname()[1]}", seconds=0.3)
    assert found["connection"].status == "fail"
    assert "does not answer" in found["connection"].found


def test_a_server_that_takes_the_connection_and_says_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = visit(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.3)
    assert found["connection"].status == "ok"
    assert found["server"].status == "fail"
    assert "nothing came within" in found["server"].found


def test_a_certificate_that_has_expired(look: Look, authority: Authority) -> None:
    old = authority.certificate(start=-30, days=20)
    found = look(certificate=old, ca_file=authority.file)
    assert list(found)[-1] == "certificate"
    assert found["certificate"].status == "fail"
    assert "expired since" in found["certificate"].found
    assert "GMT" in found["certificate"].found, "the date is read from the certificate"
    assert "renew" in found["certificate"].advice


def test_a_certificate_of_tomorrow_means_a_clock_in_the_past(
    look: Look, authority: Authority
) -> None:
    found = look(certificate=authority.certificate(start=30), ca_file=authority.file)
    assert found["certificate"].status == "fail"
    assert "not valid before" in found["certificate"].found
    assert "set-ntp" in found["certificate"].advice


def test_a_certificate_that_ends_soon(look: Look, authority: Authority) -> None:
    found = look(certificate=authority.certificate(days=10), ca_file=authority.file)
    assert found["certificate"].status == "warn"
    assert "8 more days" in found["certificate"].found
    assert found["token"].status == "ok"


def test_a_certificate_for_another_host(look: Look, authority: Authority) -> None:
    other = authority.certificate(host="server.lan")
    found = look(certificate=other, ca_file=authority.file)
    assert found["certificate"].status == "fail"
    assert "not for 127.0.0.1" in found["certificate"].found


def test_an_authority_that_this_device_does_not_know(look: Look, authority: Authority) -> None:
    behaviour = Behaviour()
    found = look(behaviour, authority.certificate())
    assert found["certificate"].status == "fail"
    assert "does not trust" in found["certificate"].found
    assert "--pin" in found["certificate"].advice
    assert not behaviour.tokens_seen


def test_a_server_whose_certificate_is_no_longer_the_pinned_one(
    look: Look, authority: Authority, tmp_path: Path
) -> None:
    pinned = Authority(tmp_path).file
    found = look(certificate=authority.certificate(), ca_file=pinned, pin="sha256:" + "a" * 64)
    assert found["certificate"].status == "fail"
    assert "not the pinned one (sha256:aaa" in found["certificate"].found
    assert "somebody is in between" in found["certificate"].advice


def test_a_lost_copy_of_the_authority(look: Look, authority: Authority, tmp_path: Path) -> None:
    found = look(certificate=authority.certificate(), ca_file=tmp_path / "gone.pem")
    assert found["certificate"].status == "fail"
    assert "gone.pem" in found["certificate"].found


def test_https_to_a_port_that_speaks_http(look: Look, authority: Authority) -> None:
    found = look(scheme="https", ca_file=authority.file)
    assert found["certificate"].status == "fail"
    assert "does not speak TLS" in found["certificate"].found


def test_http_to_a_port_that_speaks_tls(look: Look, authority: Authority) -> None:
    found = look(certificate=authority.certificate(), scheme="http")
    assert found["server"].status == "fail"


def test_a_revoked_token(look: Look) -> None:
    found = look(token="another")
    assert found["token"].status == "fail"
    assert "enroll again" in found["token"].advice


def test_a_server_without_the_route_of_the_device_is_asked_for_its_models(look: Look) -> None:
    behaviour = Behaviour()
    del behaviour.answers["/v1/devices/self"]
    behaviour.answers["/v1/models"] = (200, {"data": []})
    assert look(behaviour)["token"].status == "ok"


def test_a_captive_portal_does_not_see_the_token(look: Look) -> None:
    portal = Behaviour(answers={"/version": (200, b"<html>pay here</html>")})
    found = look(portal)
    assert found["server"].status == "fail"
    assert "something else answers" in found["server"].found
    assert portal.tokens_seen == []


def test_another_protocol(look: Look) -> None:
    behaviour = Behaviour()
    behaviour.answers["/version"] = (200, {"version": "9.0", "protocols": ["2", "3"]})
    found = look(behaviour)
    assert found["server"].status == "fail"
    assert "protocol 2, 3; this device 1" in found["server"].found


@pytest.mark.parametrize(
    ("offset", "status", "words"),
    [
        (-365 * 86400, "fail", "365 days ahead of"),
        (365 * 86400, "fail", "365 days behind"),
        (180, "warn", "3 minutes behind"),
        (20, "ok", "agree"),
    ],
)
def test_two_clocks_that_disagree(look: Look, offset: float, status: str, words: str) -> None:
    found = look(Behaviour(clock_offset=offset))["server-clock"]
    assert found.status == status
    assert words in found.found


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((503, {"error": {"code": "unavailable"}}), "not ready: 503"),
        ((200, {"status": "ready", "worker": "restarting"}), "worker is restarting"),
    ],
)
def test_a_server_that_is_not_ready(
    look: Look, answer: tuple[int, dict[str, object]], words: str
) -> None:
    behaviour = Behaviour()
    behaviour.answers["/ready"] = answer
    found = look(behaviour)["ready"]
    assert found.status == "warn"
    assert words in found.found


def test_a_proxy_is_mentioned_where_it_would_be_taken() -> None:
    enrolment = Enrolment("https://server.lan", "dev_1", "pi", TOKEN)
    server = server_of(enrolment)
    assert server is not None
    assert server.port == 443
    assert check_proxy({"http": "http://proxy:3128"}, server) is None
    found = check_proxy({"https": "http://proxy:3128"}, server)
    assert found is not None
    assert "no_proxy=server.lan" in found.advice


@pytest.mark.parametrize("url", ["ftp://server", "server:8000", "http://", "http://a:port"])
def test_what_is_no_address(url: str) -> None:
    enrolment = Enrolment(url, "dev_1", "pi", TOKEN)
    assert server_of(enrolment) is None
