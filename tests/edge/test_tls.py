"""Whom a device trusts: pins, own authorities, changed and broken certificates, redirects."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from splitfrozen.errors import RefusedError, SplitFrozenError
from splitfrozen_edge.cli import main
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.identity.enrolling import enroll_device
from splitfrozen_edge.identity.failures import CertificateError, certificate_words
from splitfrozen_edge.identity.pinning import shown_fingerprint
from splitfrozen_edge.identity.trust import certificates, context_for, fingerprint, parse_pin
from splitfrozen_edge.state import Enrolment, StateDirectory, StateError
from splitfrozen_server.cli import with_own_certificate
from splitfrozen_server.config import ServerConfig
from splitfrozen_server.tls import (
    RENEW_DAYS,
    SERVER_DAYS,
    TlsFiles,
    TlsState,
    init_tls,
    read_tls,
    renew_tls,
)
from splitfrozen_server.tls_renewal import keep_renewed
from tests.edge.tls_server import TlsServer, serving

TOKEN = "sf_enr_secret"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `tls init` makes; copied where a test changes it."""
    directory = tmp_path_factory.mktemp("made") / "tls"
    init_tls(directory, ["server.lan"])
    return directory


@pytest.fixture
def tls(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "tls"))


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state")


def enroll(state: StateDirectory, server: str, *words: object) -> Result:
    arguments = ["enroll", "--state-dir", state.path, "--server", server, "--token", TOKEN, *words]
    return CliRunner().invoke(main, [str(word) for word in arguments])


def client_of(state: StateDirectory, waits: list[float] | None = None) -> Client:
    who = state.enrolment()
    assert who.ca_file is not None
    noted = [] if waits is None else waits
    return Client(who.server, who.token, ca_file=Path(who.ca_file), pin=who.pin, wait=noted.append)


def leaf_pin(directory: Path) -> str:
    """Fingerprint of the server's own certificate."""
    return fingerprint(certificates(TlsFiles(directory).server.read_text())[0])


def sent_tokens(server: TlsServer) -> list[str]:
    return [authorization for _, _, authorization in server.seen if authorization]


def test_pinned_authority_is_fetched_compared_and_then_the_only_one_trusted(
    tls: Path, state: StateDirectory
) -> None:
    with serving(tls) as server:
        pin = read_tls(tls).pin
        found = enroll(state, server.url, "--pin", pin)
        assert found.exit_code == 0, found.output
        assert ("GET", "/v1/ca", "") in server.seen, "no token on the unverified connection"
        who = state.enrolment()
        assert (who.pin, who.bundle_key, who.token) == (pin, "ab" * 32, "sf_dev_given")
        assert Path(who.ca_file or "").read_bytes() == TlsFiles(tls).ca.read_bytes()
        assert Path(who.ca_file or "").parent == state.path
        for path in state.path.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        client = client_of(state)
        assert client.call("GET", "/v1/devices/self")["id"] == "dev_1"
        client.close()


def test_pinned_certificate_of_the_server_itself_is_trusted_without_its_authority(
    tls: Path, state: StateDirectory
) -> None:
    with serving(tls, authority=False) as server:
        found = enroll(state, server.url, "--pin", leaf_pin(tls).upper().replace("SHA", "sha"))
        assert found.exit_code == 0, found.output
        client = client_of(state)
        assert client.call("GET", "/v1/devices/self")["id"] == "dev_1"
        client.close()


def test_wrong_pin_is_refused_before_the_token_is_sent(tls: Path, state: StateDirectory) -> None:
    pin = "sha256:" + "0" * 64
    with serving(tls) as server:
        found = enroll(state, server.url, "--pin", pin)
        assert found.exit_code == 3 and "[bad_certificate]" in found.stderr
        assert f"expected {pin}" in found.stderr and read_tls(tls).pin in found.stderr
        assert sent_tokens(server) == [] and not state.is_enrolled()


def test_changed_certificate_is_an_error_in_words_and_never_retried(
    tls: Path, state: StateDirectory, tmp_path: Path
) -> None:
    with serving(tls) as server:
        pin = read_tls(tls).pin
        assert enroll(state, server.url, "--pin", pin).exit_code == 0
    other = tmp_path / "other"
    init_tls(other, ["server.lan"])
    with serving(other, port=server.port) as impostor:
        waits: list[float] = []
        client = client_of(state, waits)
        with pytest.raises(CertificateError) as refused:
            client.put_shard("d", "0" * 64, b"body")
        client.close()
        message = refused.value.message
        assert f"Expected {pin}, came {leaf_pin(other)}" in message
        assert "enroll --force --pin" in message and "in between" in message
        assert waits == [] and impostor.seen == []


def test_certificate_renewed_by_the_same_authority_changes_nothing_for_devices(
    tls: Path, state: StateDirectory
) -> None:
    with serving(tls) as server:
        assert enroll(state, server.url, "--pin", read_tls(tls).pin).exit_code == 0
    before = leaf_pin(tls)
    renewed = renew_tls(tls, ["new.lan"])
    assert leaf_pin(tls) != before and renewed.pin == state.enrolment().pin
    assert {"server.lan", "new.lan", "127.0.0.1"} <= set(renewed.hosts)
    with serving(tls, port=server.port):
        client = client_of(state)
        assert client.call("GET", "/v1/devices/self")
        client.close()


@pytest.mark.parametrize("by_hand", [False, True])
def test_running_server_takes_up_a_renewed_certificate(
    tls: Path, state: StateDirectory, by_hand: bool
) -> None:
    renew_tls(tls, [], days=SERVER_DAYS if by_hand else RENEW_DAYS - 1)
    before = leaf_pin(tls)
    with serving(tls) as server:
        assert enroll(state, server.url, "--pin", read_tls(tls).pin).exit_code == 0

        async def watch() -> None:
            assert server.context is not None
            task = asyncio.create_task(keep_renewed(tls, server.context, interval=0.02))
            await asyncio.sleep(0.1)  # the first look is over: what comes now is a change
            if by_hand:
                renew_tls(tls, [])
            while await asyncio.to_thread(shown_fingerprint, server.url) == before:
                assert not task.done(), task.exception()
                await asyncio.sleep(0.02)
            task.cancel()

        asyncio.run(asyncio.wait_for(watch(), 60))
        assert shown_fingerprint(server.url) == leaf_pin(tls) != before
        client = client_of(state)
        assert client.call("GET", "/v1/devices/self"), "the device notices nothing"
        client.close()


def test_expired_certificate_says_so_and_speaks_of_the_clock(
    tls: Path, state: StateDirectory
) -> None:
    renew_tls(tls, [], days=-0.5)
    with serving(tls) as server:
        found = enroll(state, server.url, "--pin", read_tls(tls).pin)
        assert found.exit_code == 3, found.output
        assert "has expired" in found.stderr and "clock" in found.stderr
        assert "tls renew" in found.stderr and sent_tokens(server) == []


def test_certificate_for_another_address_names_the_address(
    tls: Path, state: StateDirectory
) -> None:
    with serving(tls) as server:
        assert enroll(state, server.url, "--pin", read_tls(tls).pin).exit_code == 0
        elsewhere = f"https://127.0.0.1.nip.invalid:{server.port}"
        context = context_for(Path(state.enrolment().ca_file or ""))
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            pytest.raises(ssl.SSLCertVerificationError) as refused,
        ):
            context.wrap_socket(plain, server_hostname="elsewhere.lan")
        words = certificate_words(elsewhere, refused.value, None)
        assert "not for 127.0.0.1.nip.invalid" in words and "--host" in words


def test_unknown_authority_without_a_pin_tells_how_to_pin_it(
    tls: Path, state: StateDirectory
) -> None:
    with serving(tls) as server:
        found = enroll(state, server.url)
        assert found.exit_code == 3 and "--pin" in found.stderr
        assert leaf_pin(tls) in found.stderr and sent_tokens(server) == []
        authority = fingerprint(certificates(TlsFiles(tls).ca.read_text())[0])
        assert f"which tls show prints: {authority}" in found.stderr


def test_plain_http_to_a_server_with_tls_is_said_at_once(tls: Path, state: StateDirectory) -> None:
    with serving(tls) as server:
        plain = server.url.replace("https:", "http:")
        found = enroll(state, plain, "--retry-for", 1000)
        assert (found.exit_code, "does the server speak https?" in found.stderr) == (3, True)


def test_ca_file_is_copied_so_the_original_may_move(
    tls: Path, state: StateDirectory, tmp_path: Path
) -> None:
    original = Path(shutil.copy(TlsFiles(tls).ca, tmp_path / "authority.pem"))
    with serving(tls) as server:
        assert enroll(state, server.url, "--ca-file", original).exit_code == 0
        original.unlink()
        state.path.rename(tmp_path / "moved")
        moved = StateDirectory(tmp_path / "moved")
        client = client_of(moved)
        assert client.call("GET", "/v1/devices/self")
        client.close()


def test_new_enrolment_drops_the_old_copy_and_a_failed_one_keeps_it(
    tls: Path, state: StateDirectory, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    init_tls(other, ["server.lan"])
    with serving(tls) as server:
        assert enroll(state, server.url, "--pin", read_tls(tls).pin).exit_code == 0
        old = state.enrolment()
        failed = enroll(state, server.url, "--force", "--ca-file", TlsFiles(other).ca)
        assert failed.exit_code == 3 and state.enrolment() == old
        assert [str(path) for path in state.path.glob("ca-*")] == [old.ca_file]
    with serving(other) as second:
        assert enroll(state, second.url, "--force", "--pin", read_tls(other).pin).exit_code == 0
    assert not Path(old.ca_file or "").exists()
    assert Path(state.enrolment().ca_file or "").exists()


@pytest.mark.parametrize(
    ("words", "server"),
    [
        (["--pin", "sha256:12"], "https://127.0.0.1:9"),
        (["--pin", "md5:" + "0" * 64], "https://127.0.0.1:9"),
        (["--pin", "sha256:" + "0" * 64], "http://127.0.0.1:9"),
        ([], "ftp://127.0.0.1:9"),
    ],
)
def test_flags_that_cannot_be_meant_exit_with_2(
    state: StateDirectory, words: list[str], server: str
) -> None:
    assert enroll(state, server, *words).exit_code == 2


def test_pin_is_read_in_the_forms_in_which_people_copy_it() -> None:
    digits = "0123456789abcdef" * 4
    pairs = ":".join(digits[i : i + 2] for i in range(0, 64, 2)).upper()
    assert parse_pin(f" SHA256:{pairs} ") == parse_pin(f"sha256:{digits}") == f"sha256:{digits}"


def test_file_without_a_certificate_is_named(state: StateDirectory, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    with pytest.raises(StateError, match=str(broken)):
        enroll_device(state, "https://127.0.0.1:9", TOKEN, name="pi", ca_file=broken)
    assert not state.is_enrolled()


def test_encrypted_server_is_not_exchanged_for_a_plain_one(
    tls: Path, state: StateDirectory
) -> None:
    with serving(tls) as server:
        assert enroll(state, server.url, "--pin", read_tls(tls).pin).exit_code == 0
    found = enroll(state, "http://127.0.0.1:8000", "--force")
    assert found.exit_code == 2 and "without encryption" in found.stderr


@pytest.mark.parametrize(
    ("target", "words"),
    [("http://127.0.0.1:9/x", "not encrypted"), ("https://elsewhere.lan/x", "enroll --force")],
)
def test_redirects_are_not_followed(
    tls: Path, state: StateDirectory, target: str, words: str
) -> None:
    with serving(tls) as server:
        assert enroll(state, server.url, "--pin", read_tls(tls).pin).exit_code == 0
        server.redirect = target
        client = client_of(state, waits := [])
        with pytest.raises(RefusedError, match=words):
            client.call("GET", "/v1/devices/self")
        client.close()
        assert waits == []


def test_enrolment_of_an_older_version_still_reads(state: StateDirectory) -> None:
    state.store_enrolment(Enrolment("http://127.0.0.1:1", "dev_1", "pi", "t"))
    path = state.path / "device.json"
    old = json.loads(path.read_text())
    assert {"pin", "bundle_key"} <= set(old) and "origin" not in old
    path.write_text(json.dumps({k: old[k] for k in ("server", "device", "name", "token")}))
    found = state.enrolment()
    assert (found.device, found.pin, found.bundle_key, found.ca_file) == ("dev_1", None, None, None)
    path.write_text(json.dumps({"server": "http://127.0.0.1:1"}))
    with pytest.raises(StateError, match="damaged"):
        state.enrolment()


def test_own_certificates_satisfy_the_strict_rules_of_newer_pythons(made: Path) -> None:
    context = ssl.create_default_context(cafile=str(TlsFiles(made).ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with serving(made) as server:
        for host in ("127.0.0.1", "server.lan", "localhost"):
            with socket.create_connection(("127.0.0.1", server.port)) as plain:
                context.wrap_socket(plain, server_hostname=host).close()


def test_bundle_key_of_another_form_is_not_pinned(tls: Path, state: StateDirectory) -> None:
    with serving(tls) as server:
        server.bundle_key = "0123"
        assert enroll(state, server.url, "--pin", read_tls(tls).pin).exit_code == 3
        assert not any(path == "/v1/devices" for _, path, _ in server.seen), "no use is spent"
        server.bundle_key = None
        assert enroll(state, server.url, "--pin", read_tls(tls).pin).exit_code == 0
        assert state.enrolment().bundle_key is None


@pytest.mark.parametrize("host", ["", "a b", "192.168.1.300", "-x.lan", "x..lan", "x" * 64])
def test_host_that_no_device_could_reach_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(SplitFrozenError) as refused:
        init_tls(tmp_path / "tls", ["server.lan", host])
    assert refused.value.code == "invalid_request" and "--host" in refused.value.message
    init_tls(tmp_path / "tls", ["server.lan", "*.lan", "fd00::1", "my_pi", "b\u00fccher.lan"])


def test_server_serves_on_with_a_certificate_that_it_cannot_renew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "tls"
    made = init_tls(directory, ["server.lan"], days=RENEW_DAYS / 2)
    TlsFiles(directory).ca_key.write_text("kept elsewhere, behind a password")
    with pytest.raises(SplitFrozenError, match=r"ca\.key is not a key"):
        renew_tls(directory, ())
    config = with_own_certificate(ServerConfig(data_dir=tmp_path, host="0.0.0.0"))
    assert config.tls_cert == TlsFiles(directory).server and read_tls(directory) == made
    assert "cannot be renewed" in capsys.readouterr().err
    TlsFiles(directory).server.write_text("damaged")
    with pytest.raises(SplitFrozenError) as refused:
        with_own_certificate(ServerConfig(data_dir=tmp_path, host="0.0.0.0"))
    assert refused.value.code == "bad_certificate"


def test_made_keys_are_private_and_the_lifetimes_are_those_promised(tls: Path) -> None:
    files = TlsFiles(tls)
    assert stat.S_IMODE(files.ca_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.server.stat().st_mode) == 0o600
    found: TlsState = read_tls(tls)
    assert 3650 < (found.ca_until - found.server_until).days + 397 < 3656
