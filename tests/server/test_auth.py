"""Who may do what: every route times every role, and the lives of tokens."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from splitfrozen_server.auth import hash_token
from tests.server.conftest import Corner
from tests.server.stack import ServerProcess, enrol, rows

OPEN = {"/health", "/ready", "/version", "/metrics", "/v1/ca"}
DEVICE_ONLY = {
    ("PUT", "/v1/activation_datasets/{dataset}/shards/{sha256}"),
    ("GET", "/v1/devices/self"),
    ("POST", "/v1/devices/self/token"),
    ("POST", "/v1/devices/self/heartbeat"),
    ("PUT", "/v1/devices/self/profile"),
    ("DELETE", "/v1/devices/self/data"),
}
ENROL_ONLY = {("POST", "/v1/devices")}
ADMIN_AND_DEVICE = {
    ("GET", "/v1/base_models"),
    ("GET", "/v1/bundles"),
    ("GET", "/v1/bundles/{bundle_id}"),
    ("GET", "/v1/bundles/{bundle_id}/files/{name}"),
    ("POST", "/v1/activation_datasets"),
    ("GET", "/v1/activation_datasets"),
    ("GET", "/v1/activation_datasets/{dataset}"),
    ("POST", "/v1/activation_datasets/{dataset}/labels"),
    ("HEAD", "/v1/activation_datasets/{dataset}/shards/{sha256}"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/v1/split/classifications"),
    ("POST", "/v1/split/sessions"),
    ("POST", "/v1/split/sessions/{session}/steps"),
    ("DELETE", "/v1/split/sessions/{session}"),
}


def allowed_roles(method: str, path: str) -> set[str]:
    """The table of the SPEC; what it does not name is for admins."""
    if (method, path) in DEVICE_ONLY:
        return {"device"}
    if (method, path) in ENROL_ONLY:
        return {"enrol"}
    return {"admin", "device"} if (method, path) in ADMIN_AND_DEVICE else {"admin"}


def all_routes(server: ServerProcess) -> list[tuple[str, str]]:
    document = httpx.get(f"{server.url}/openapi.json").json()
    return [
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
        if path not in OPEN
    ]


def call(server: ServerProcess, token: str, method: str, path: str) -> httpx.Response:
    """A request that is refused for what it lacks if it is not refused for who sends it."""
    url = path.replace("{sha256}", "0" * 64)
    url = re.sub(r"{\w+}", "nothing-has-this-id", url)
    with server.client(token) as client:
        return client.request(method, url, json={} if method == "POST" else None)


@pytest.fixture(scope="module")
def role_tokens(server: ServerProcess) -> dict[str, str]:
    with server.client() as admin:
        enrolment = admin.post("/v1/tokens", json={"role": "enrol"}).json()["token"]
    return {
        "admin": server.admin_token,
        "enrol": enrolment,
        "device": enrol(server, "matrix")["token"],
    }


def test_every_route_lets_in_its_roles_and_no_other(
    server: ServerProcess, role_tokens: dict[str, str]
) -> None:
    routes = all_routes(server)
    assert len(routes) >= 20 and set(routes) >= DEVICE_ONLY | ENROL_ONLY
    for method, path in routes:
        for role, token in role_tokens.items():
            status = call(server, token, method, path).status_code
            if role in allowed_roles(method, path):
                assert status not in (401, 403, 500), (method, path, role, status)
            else:
                assert status == 403, (method, path, role, status)


@pytest.mark.parametrize("token", ["", "sf_adm_guess", "x" * 5000, "\N{SNOWMAN}".encode().hex()])
def test_no_route_lets_in_an_unknown_token(server: ServerProcess, token: str) -> None:
    for method, path in all_routes(server):
        answer = call(server, token, method, path)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        if method != "HEAD":
            assert answer.json()["error"]["code"] == "unauthorized"


def test_token_in_the_url_is_no_token(server: ServerProcess) -> None:
    answer = httpx.get(f"{server.url}/v1/tokens", params={"token": server.admin_token})
    assert answer.status_code == 401


def test_open_routes_need_no_token(server: ServerProcess) -> None:
    for path in (*(OPEN - {"/v1/ca"}), "/docs", "/openapi.json"):
        assert httpx.get(server.url + path).status_code == 200, path


def test_only_hashes_of_tokens_are_stored(server: ServerProcess) -> None:
    device = enrol(server, "hashed")
    stored = rows(server.data_dir, ["tokens"])["tokens"]
    assert hash_token(device["token"]) in str(stored)
    database = (server.data_dir / "splitfrozen.db").read_bytes()
    log = (server.data_dir / "splitfrozen.db-wal").read_bytes()
    for token in (device["token"], server.admin_token):
        assert token.encode() not in database + log
    assert device["token"].startswith("sf_dev_") and len(device["token"]) >= 50


def test_token_list_shows_no_secret(server: ServerProcess) -> None:
    with server.client() as admin:
        made = admin.post("/v1/tokens", json={"role": "enrol", "name": "shown once"}).json()
        listed = admin.get("/v1/tokens").text
    assert made["id"] in listed and made["token"] not in listed


def test_enrolment_token_of_five_uses_makes_five_devices_under_a_race(
    server: ServerProcess,
) -> None:
    with server.client() as admin:
        token = admin.post("/v1/tokens", json={"role": "enrol", "uses": 5}).json()["token"]
    with server.client(token) as client, ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: client.post("/v1/devices", json={"name": f"pi-{n}"}), range(20))
        )
    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [401] * 15


def test_expired_token_is_refused(server: ServerProcess) -> None:
    with server.client() as admin:
        made = admin.post("/v1/tokens", json={"role": "admin", "expires_in": 1}).json()
    time.sleep(max(0.0, made["expires_at"] - time.time()) + 0.01)
    with server.client(made["token"]) as client:
        assert "expired" in client.get("/v1/tokens").json()["error"]["message"]


def test_revoked_token_is_refused_at_once(server: ServerProcess) -> None:
    with server.client() as admin:
        made = admin.post("/v1/tokens", json={"role": "admin"}).json()
        with server.client(made["token"]) as other:
            assert other.get("/v1/tokens").status_code == 200
            assert admin.delete(f"/v1/tokens/{made['id']}").json()["deleted"]
            assert other.get("/v1/tokens").status_code == 401


def test_revoked_device_is_refused_and_its_data_stays(corner: Corner) -> None:
    device = enrol(corner.server, "revoked")
    from tests.server.stack import put

    with corner.server.client(device["token"]) as client:
        assert put(client, corner.dataset, corner.make.body(1)).status_code == 201
        with corner.server.client() as admin:
            admin.delete(f"/v1/devices/{device['id']}").raise_for_status()
            listed = {row["id"]: row for row in admin.get("/v1/devices").json()["data"]}
        assert put(client, corner.dataset, corner.make.body(2)).status_code == 401
    assert listed[device["id"]]["revoked_at"] is not None
    assert corner.client.get(f"/v1/activation_datasets/{corner.dataset}").json()["shards"] == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"role": "device"}, "role"),
        ({"role": "admin", "uses": 3}, "uses"),
        ({"role": "enrol", "uses": 0}, "uses"),
        ({"role": "enrol", "uses": "5"}, "uses"),
        ({"role": "enrol", "expires_in": -1}, "expires_in"),
        ({"role": "enrol", "color": "red"}, "color"),
        ({}, "role"),
    ],
)
def test_bad_token_request_names_the_field(
    server: ServerProcess, body: dict[str, object], param: str
) -> None:
    with server.client() as admin:
        answer = admin.post("/v1/tokens", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_request")
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


def test_first_token_is_printed_once_and_kept_private(
    tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., ServerProcess]
) -> None:
    data_dir = tmp_path_factory.mktemp("fresh") / "state"
    first = ServerProcess(data_dir)
    token = first.admin_token
    assert first.stop() == 0
    again = ServerProcess(data_dir)
    assert again.stop() == 0
    path = data_dir / "admin.token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"Admin token: {token}" in first.lines
    assert not any(token in line for line in again.lines)
    assert any(str(path) in line for line in again.lines)
