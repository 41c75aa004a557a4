"""What a device may do about itself: look, beat, tell its profile, change its token."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from splitfrozen import __version__
from tests.server.conftest import Corner
from tests.server.stack import ServerProcess, create_dataset, enrol, put, rows

SELF = "/v1/devices/self"


@pytest.fixture
def device(server: ServerProcess) -> Iterator[tuple[dict[str, Any], httpx.Client]]:
    """A device of this test's own and its client."""
    enrolled = enrol(server)
    with server.client(enrolled["token"]) as client:
        yield enrolled, client


def rotate(client: httpx.Client) -> str:
    answer = client.post(f"{SELF}/token")
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


def opens(server: ServerProcess, token: str) -> bool:
    with server.client(token) as client:
        status = client.get(SELF).status_code
    assert status in (200, 401)
    return status == 200


def set_heartbeat_back(server: ServerProcess, device: str, seconds: int) -> None:
    """As if the last recorded heartbeat were older."""
    connection = sqlite3.connect(server.data_dir / "splitfrozen.db", timeout=30)
    with connection:
        connection.execute(
            "UPDATE devices SET heartbeat = json_set(heartbeat, '$.at', "
            "json_extract(heartbeat, '$.at') - ?), last_seen_at = last_seen_at - ? WHERE id = ?",
            (seconds, seconds, device),
        )
    connection.close()


def test_device_sees_itself_and_no_token(device: tuple[dict[str, Any], httpx.Client]) -> None:
    enrolled, client = device
    seen = client.get(SELF).json()
    assert seen["id"] == enrolled["id"] and "token" not in seen
    assert seen["last_seen_at"] is None and seen["heartbeat"] is None


def test_profile_is_replaced_and_bounded(device: tuple[dict[str, Any], httpx.Client]) -> None:
    _, client = device
    profile = {"machine": "aarch64", "ms_per_block": [1.5, 1.6]}
    assert client.put(f"{SELF}/profile", json={"profile": profile}).json()["profile"] == profile
    assert client.put(f"{SELF}/profile", json={"profile": {}}).json()["profile"] == {}
    refused = client.put(f"{SELF}/profile", json={"profile": {"x": "y" * 4096}})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "profile"


@pytest.mark.parametrize(
    "value", ['"\\ud800"', '{"\\ud800": 1}', "NaN", "1e999", "[" * 300 + "]" * 300]
)
def test_profile_that_no_answer_could_show_is_refused(
    server: ServerProcess, device: tuple[dict[str, Any], httpx.Client], value: str
) -> None:
    enrolled, client = device
    body, kind = f'{{"profile": {{"x": {value}}}}}', {"Content-Type": "application/json"}
    refused = client.put(f"{SELF}/profile", content=body, headers=kind)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "profile")
    with server.client() as admin:
        listed = admin.get("/v1/devices")
    assert listed.status_code == 200 and enrolled["id"] in listed.text


def test_heartbeat_tells_of_a_dataset_once_however_often_it_is_asked(corner: Corner) -> None:
    asked = [corner.dataset, "nowhere", corner.dataset, "nowhere"]
    answer = corner.client.post(f"{SELF}/heartbeat", json={"datasets": asked}).json()
    assert [item["id"] for item in answer["datasets"]] == asked[:2]


def test_heartbeat_answers_with_the_datasets_that_were_asked_for(corner: Corner) -> None:
    assert put(corner.client, corner.dataset, corner.make.body(7)).status_code == 201
    answer = corner.client.post(
        f"{SELF}/heartbeat", json={"datasets": [corner.name, corner.dataset, "nowhere"]}
    ).json()
    by_name, by_id, gone = answer["datasets"]
    assert by_name == by_id and answer["next_in"] > 0 and answer["now"] > 1.7e9
    assert by_name["id"] == corner.dataset and by_name["labels"] == ["negative", "positive"]
    assert (by_name["examples"], by_name["sealed"], by_name["deleted"]) == (4, False, False)
    assert (gone["id"], gone["deleted"]) == ("nowhere", True)


def test_heartbeats_are_stored_once_a_minute(
    server: ServerProcess, device: tuple[dict[str, Any], httpx.Client]
) -> None:
    enrolled, client = device
    beat = {"queued_examples": 3, "queued_bytes": 400, "version": __version__, "reasons": ["hot"]}
    for queued in (3, 2, 1):
        client.post(f"{SELF}/heartbeat", json={**beat, "queued_examples": queued})
    first = client.get(SELF).json()
    assert first["heartbeat"]["queued_examples"] == 3, "the next two came within the minute"
    assert first["heartbeat"]["reasons"] == ["hot"]
    assert first["last_seen_at"] == first["heartbeat"]["at"]

    set_heartbeat_back(server, enrolled["id"], 60)
    client.post(f"{SELF}/heartbeat", json={**beat, "queued_examples": 9})
    later = client.get(SELF).json()
    assert later["heartbeat"]["queued_examples"] == 9
    assert later["last_seen_at"] >= first["last_seen_at"]


@pytest.mark.parametrize(
    "change", [{"queued_bytes": -1}, {"reasons": ["x" * 300]}, {"datasets": ["d"] * 101}, {"a": 1}]
)
def test_broken_heartbeat_is_refused(
    device: tuple[dict[str, Any], httpx.Client], change: dict[str, Any]
) -> None:
    assert device[1].post(f"{SELF}/heartbeat", json=change).status_code == 400


def test_old_token_ends_with_the_first_use_of_the_new_one(
    server: ServerProcess, device: tuple[dict[str, Any], httpx.Client]
) -> None:
    enrolled, client = device
    new = rotate(client)
    assert opens(server, enrolled["token"]), "the answer may have been lost"
    assert opens(server, new)
    assert not opens(server, enrolled["token"])
    assert opens(server, new)


def test_second_rotation_replaces_the_pending_token(
    server: ServerProcess, device: tuple[dict[str, Any], httpx.Client]
) -> None:
    enrolled, client = device
    lost, arrived = rotate(client), rotate(client)
    assert not opens(server, lost)
    assert opens(server, enrolled["token"]), "a refused successor ends nothing"
    assert opens(server, arrived) and not opens(server, enrolled["token"])


def test_device_may_rotate_again_and_again_and_keeps_two_live_tokens_at_most(
    server: ServerProcess, device: tuple[dict[str, Any], httpx.Client]
) -> None:
    enrolled, _ = device
    token = enrolled["token"]
    for _ in range(4):
        with server.client(token) as client:
            token = rotate(client)
    with server.client() as admin:
        listed = admin.get("/v1/tokens").json()["data"]
    live = [t for t in listed if t["device"] == enrolled["id"] and t["revoked_at"] is None]
    assert len(live) == 2 and opens(server, token)


def test_racing_rotations_leave_one_successor(
    server: ServerProcess, device: tuple[dict[str, Any], httpx.Client]
) -> None:
    enrolled, client = device
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: rotate(client), range(6)))
    found = [row for row in rows(server.data_dir, ["tokens"])["tokens"] if enrolled["id"] in row]
    assert len(found) == 2
    assert sum(opens(server, token) for token in made) == 1


def test_racing_first_uses_of_a_successor_all_succeed(
    server: ServerProcess, device: tuple[dict[str, Any], httpx.Client]
) -> None:
    enrolled, client = device
    new = rotate(client)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: opens(server, new), range(8)))
    assert not opens(server, enrolled["token"])


def test_revoking_a_token_ends_its_pending_successor_too(
    server: ServerProcess, device: tuple[dict[str, Any], httpx.Client]
) -> None:
    enrolled, client = device
    with server.client() as admin:
        listed = admin.get("/v1/tokens").json()["data"]
        (old,) = (token["id"] for token in listed if token["device"] == enrolled["id"])
        new = rotate(client)
        admin.delete(f"/v1/tokens/{old}").raise_for_status()
    assert not opens(server, new) and not opens(server, enrolled["token"])


def test_revoking_a_device_ends_its_pending_token_too(
    server: ServerProcess, device: tuple[dict[str, Any], httpx.Client]
) -> None:
    enrolled, client = device
    new = rotate(client)
    with server.client() as admin:
        admin.delete(f"/v1/devices/{enrolled['id']}").raise_for_status()
    assert not opens(server, new) and not opens(server, enrolled["token"])


def test_server_without_a_ca_of_its_own_says_so(server: ServerProcess) -> None:
    answer = httpx.get(f"{server.url}/v1/ca")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_heartbeat_follows_a_dataset_into_its_seal(
    server: ServerProcess, device: tuple[dict[str, Any], httpx.Client]
) -> None:
    dataset = create_dataset(server, f"sealing-{device[0]['id']}")["id"]
    with server.client() as admin:
        admin.post(f"/v1/activation_datasets/{dataset}/seal").raise_for_status()
    answer = device[1].post(f"{SELF}/heartbeat", json={"datasets": [dataset]}).json()
    assert answer["datasets"][0]["sealed"] is True
