"""Datasets: open and closed labels, idle time, sealing, erasing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.server.conftest import Corner
from tests.server.stack import blob_digests, create_dataset, put, rows

DATASETS = "/v1/activation_datasets"


def wait_until_sealed(client: httpx.Client, dataset: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found: dict[str, Any] = client.get(f"{DATASETS}/{dataset}").json()
        if found["sealed"]:
            return found
        time.sleep(0.1)
    raise AssertionError("the dataset was never sealed")


def test_closed_dataset_has_its_labels_in_order(corner: Corner) -> None:
    found = corner.client.get(f"{DATASETS}/{corner.name}").json()
    assert (found["labels"], found["open_labels"]) == (["negative", "positive"], False)
    assert (found["base_model"], found["cut"], found["sealed"]) == ("tiny", 2, False)


def test_closed_dataset_refuses_a_new_label_by_name(corner: Corner) -> None:
    path = f"{DATASETS}/{corner.dataset}/labels"
    known = corner.client.post(path, json={"names": ["positive"]})
    refused = corner.client.post(path, json={"names": ["positive", "neutral"]})
    error = refused.json()["error"]
    assert known.json() == {"labels": ["negative", "positive"]}
    assert (refused.status_code, error["code"]) == (409, "unknown_label")
    assert "'neutral'" in error["message"] and error["details"] == {"labels": ["neutral"]}


def test_open_labels_from_eight_threads_get_unique_consistent_ids(corner: Corner) -> None:
    dataset = create_dataset(corner.server, f"{corner.name}-open", labels=None)["id"]

    def append(thread: int) -> list[list[str]]:
        names = [f"label-{(thread * 3 + step) % 20}" for step in range(20)]
        path = f"{DATASETS}/{dataset}/labels"
        return [
            corner.client.post(path, json={"names": names[n : n + 3]}).json()["labels"]
            for n in range(0, 20, 3)
        ]

    with ThreadPoolExecutor(8) as pool:
        seen = [labels for answers in pool.map(append, range(8)) for labels in answers]
    final = corner.client.get(f"{DATASETS}/{dataset}").json()["labels"]
    assert sorted(final) == sorted({f"label-{n}" for n in range(20)})
    assert all(labels == final[: len(labels)] for labels in seen)


def test_label_appended_now_may_be_used_now(corner: Corner) -> None:
    dataset = create_dataset(corner.server, f"{corner.name}-open", labels=None)["id"]
    body = corner.make.body(1, dataset=dataset)
    refused = put(corner.client, dataset, body)
    corner.client.post(f"{DATASETS}/{dataset}/labels", json={"names": ["a", "b"]})
    assert refused.json()["error"]["code"] == "label_out_of_range"
    assert put(corner.client, dataset, body).status_code == 201


def test_device_creates_an_open_dataset_from_its_bundle(corner: Corner) -> None:
    body = {"name": f"{corner.name}-dev", "task": "classification", "bundle": corner.make.bundle}
    answer = corner.client.post(DATASETS, json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["open_labels"] and answer.json()["base_model"] == "tiny"
    again = corner.client.post(DATASETS, json=body)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "name_taken")
    assert again.json()["error"]["details"] == {"id": answer.json()["id"]}


@pytest.mark.parametrize("extra", [{"labels": ["a"]}, {"max_examples": 5}, {"idle_seal": 5}])
def test_device_may_not_close_or_limit_a_dataset(corner: Corner, extra: dict[str, Any]) -> None:
    body = {"name": f"{corner.name}-dev", "task": "classification", "bundle": corner.make.bundle}
    answer = corner.client.post(DATASETS, json={**body, **extra})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"name": "../../x"}, 400, "invalid_request", "name"),
        ({"name": "ds_looks_like_an_id"}, 400, "invalid_request", "name"),
        ({"name": "a" * 65}, 400, "invalid_request", "name"),
        ({"cut": 4}, 400, "invalid_request", "cut"),
        ({"cut": 0}, 400, "invalid_request", "cut"),
        ({"cut": 10**20}, 400, "invalid_request", "cut"),
        ({"max_examples": 10**20}, 400, "invalid_request", "max_examples"),
        ({"base_model": "nobody"}, 404, "not_found", "base_model"),
        ({"task": "inference"}, 400, "invalid_request", "task"),
        ({"labels": ["a", "a"]}, 400, "invalid_request", "labels"),
        ({"labels": ["a\n"]}, 400, "invalid_request", "labels.0"),
        ({"task": "causal_lm"}, 400, "invalid_request", "labels"),
        ({"bundle": "0" * 64}, 409, "unknown_bundle", "bundle"),
    ],
)
def test_bad_dataset_names_the_field(
    corner: Corner, change: dict[str, Any], status: int, code: str, param: str
) -> None:
    body = {
        "name": f"{corner.name}-bad",
        "task": "classification",
        "base_model": "tiny",
        "cut": 2,
        "labels": ["a", "b"],
        **change,
    }
    before = rows(corner.server.data_dir, ["datasets", "labels"])
    with corner.server.client() as admin:
        answer = admin.post(DATASETS, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert rows(corner.server.data_dir, ["datasets", "labels"]) == before


def test_idle_dataset_is_sealed_after_its_last_shard(corner: Corner) -> None:
    dataset = create_dataset(corner.server, f"{corner.name}-idle", idle_seal=0.5)["id"]
    assert put(corner.client, dataset, corner.make.body(1, dataset=dataset)).status_code == 201
    assert wait_until_sealed(corner.client, dataset)["shards"] == 1
    refused = put(corner.client, dataset, corner.make.body(2, dataset=dataset))
    assert refused.json()["error"]["code"] == "dataset_sealed"


def test_idle_dataset_without_a_shard_waits(corner: Corner) -> None:
    waiting = create_dataset(corner.server, f"{corner.name}-wait", idle_seal=0.1)["id"]
    busy = create_dataset(corner.server, f"{corner.name}-busy", idle_seal=0.1)["id"]
    put(corner.client, busy, corner.make.body(1, dataset=busy))
    wait_until_sealed(corner.client, busy)  # so the sealer has looked at both
    assert not corner.client.get(f"{DATASETS}/{waiting}").json()["sealed"]


def test_erased_dataset_leaves_no_row_and_no_activation(corner: Corner) -> None:
    digest = put(corner.client, corner.dataset, corner.make.body(1)).json()["digest"]
    assert digest in blob_digests(corner.server.data_dir)
    with corner.server.client() as admin:
        assert admin.delete(f"{DATASETS}/{corner.dataset}").json()["deleted"]
        assert admin.get(f"{DATASETS}/{corner.dataset}").status_code == 404
    assert digest not in blob_digests(corner.server.data_dir)
    left = rows(corner.server.data_dir, ["labels", "shards", "examples"])
    assert corner.dataset not in str(left)


@pytest.mark.parametrize("path", ["/v1/bundles?cut=", DATASETS + "/{dataset}/shards?after="])
def test_integer_that_no_database_holds_is_invalid(corner: Corner, path: str) -> None:
    with corner.server.client() as admin:
        answer = admin.get(path.format(dataset=corner.dataset) + str(10**20))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
