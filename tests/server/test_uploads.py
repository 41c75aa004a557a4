"""Accepted uploads: receipts, repeats, encodings, duplicates, many at once."""

from __future__ import annotations

import gzip
import hashlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import zstandard

from splitfrozen.wire import decode, encode
from tests.server.conftest import Corner
from tests.server.stack import blob_digests, put, stored


def test_receipt_says_what_is_stored(corner: Corner) -> None:
    body = corner.make.body(1, examples=3)
    answer = put(corner.client, corner.dataset, body)
    receipt = answer.json()
    shard = decode(body)
    assert answer.status_code == 201
    assert receipt["digest"] == hashlib.sha256(body).hexdigest()
    assert (receipt["examples"], receipt["tokens"]) == (3, shard.tokens)
    assert (receipt["size"], receipt["sequence"]) == (len(body), 1)
    path = corner.server.data_dir / "blobs" / receipt["digest"][:2] / receipt["digest"]
    assert path.read_bytes() == body


def test_same_shard_again_gives_the_first_receipt(corner: Corner) -> None:
    body = corner.make.body(1)
    first = put(corner.client, corner.dataset, body)
    before = stored(corner.server.data_dir)
    again = put(corner.client, corner.dataset, body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert stored(corner.server.data_dir) == before


def test_repeat_of_a_shard_that_lost_its_bytes_stores_them_again(corner: Corner) -> None:
    body = corner.make.body(1)
    first = put(corner.client, corner.dataset, body)
    digest = first.json()["digest"]
    (corner.server.data_dir / "blobs" / digest[:2] / digest).unlink()
    path = f"/v1/activation_datasets/{corner.dataset}/shards/{digest}"
    assert corner.client.head(path).status_code == 404
    again = put(corner.client, corner.dataset, body)
    assert (again.status_code, again.json()) == (200, first.json())
    assert digest in blob_digests(corner.server.data_dir)
    assert corner.client.head(path).status_code == 200


def test_repeat_with_another_body_is_no_repeat(corner: Corner) -> None:
    body = corner.make.body(1)
    put(corner.client, corner.dataset, body)
    digest = hashlib.sha256(body).hexdigest()
    answer = put(corner.client, corner.dataset, corner.make.body(2), digest=digest)
    assert answer.json()["error"]["code"] == "digest_mismatch"


def test_head_tells_whether_a_shard_is_stored(corner: Corner) -> None:
    body = corner.make.body(1)
    path = f"/v1/activation_datasets/{corner.dataset}/shards/{hashlib.sha256(body).hexdigest()}"
    assert corner.client.head(path).status_code == 404
    put(corner.client, corner.dataset, body)
    assert corner.client.head(path).status_code == 200


@pytest.mark.parametrize("codec", ["int8", "bf16", "fp32"])
@pytest.mark.parametrize("encoding", ["zstd", "gzip", "identity"])
def test_every_codec_in_every_encoding(corner: Corner, codec: str, encoding: str) -> None:
    body = corner.make.body(1, codec=codec)
    wire = {"zstd": zstandard.compress, "gzip": gzip.compress, "identity": bytes}[encoding](body)
    answer = put(corner.client, corner.dataset, body, wire=wire, encoding=encoding)
    assert answer.status_code == 201, answer.text


def test_dataset_may_be_named_by_its_name(corner: Corner) -> None:
    assert put(corner.client, corner.name, corner.make.body(1)).status_code == 201


def test_example_known_under_another_shard_is_refused_with_its_id(corner: Corner) -> None:
    first = corner.make.shard(1)
    put(corner.client, corner.dataset, encode(first))
    second = corner.make.shard(2)
    assert first.example_ids is not None and second.example_ids is not None
    second.example_ids[1] = first.example_ids[3]
    before = stored(corner.server.data_dir)
    answer = put(corner.client, corner.dataset, encode(second))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (409, "duplicate_example")
    assert error["details"] == {"example_ids": [first.example_ids[3].tobytes().hex()]}
    assert stored(corner.server.data_dir) == before


def test_example_id_may_occur_in_two_datasets(corner: Corner, server_dataset: str) -> None:
    first = corner.make.shard(1)
    put(corner.client, corner.dataset, encode(first))
    other = corner.make.shard(1, dataset=server_dataset)
    assert put(corner.client, server_dataset, encode(other)).status_code == 201


@pytest.fixture
def server_dataset(corner: Corner) -> str:
    from tests.server.stack import create_dataset

    found: str = create_dataset(corner.server, f"{corner.name}-b")["id"]
    return found


def test_counters_of_the_dataset_follow_its_shards(corner: Corner) -> None:
    bodies = [corner.make.body(seed) for seed in range(3)]
    for body in bodies:
        put(corner.client, corner.dataset, body)
    found = corner.client.get(f"/v1/activation_datasets/{corner.dataset}").json()
    assert (found["shards"], found["examples"], found["devices"]) == (3, 12, 1)
    assert found["bytes"] == sum(map(len, bodies))
    assert found["tokens"] == sum(decode(body).tokens for body in bodies)


def test_shards_are_listed_in_order_of_admission(corner: Corner) -> None:
    digests = [
        put(corner.client, corner.dataset, corner.make.body(seed)).json()["digest"]
        for seed in range(5)
    ]
    path = f"/v1/activation_datasets/{corner.dataset}/shards"
    with corner.server.client() as admin:
        head = admin.get(path, params={"limit": 2}).json()
        tail = admin.get(path, params={"after": 2}).json()
    assert [row["digest"] for row in head["data"]] == digests[:2] and head["has_more"]
    assert [row["digest"] for row in tail["data"]] == digests[2:] and not tail["has_more"]


def test_one_shard_sent_sixteen_times_at_once_is_stored_once(corner: Corner) -> None:
    body = corner.make.body(1)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: put(corner.client, corner.dataset, body), range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
    assert len({answer.text for answer in answers}) == 1


def test_two_shards_with_one_example_in_common_race_and_one_wins(corner: Corner) -> None:
    shared = np.arange(16, dtype=np.uint8)
    shards = [corner.make.shard(seed) for seed in range(8)]
    for shard in shards:
        assert shard.example_ids is not None
        shard.example_ids[0] = shared
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda shard: put(corner.client, corner.dataset, encode(shard)), shards)
        )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    found = corner.client.get(f"/v1/activation_datasets/{corner.dataset}").json()
    assert (found["shards"], found["examples"]) == (1, 4)


def test_many_writers_get_a_sequence_without_gaps(corner: Corner) -> None:
    bodies = [corner.make.body(seed, examples=2) for seed in range(100)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: put(corner.client, corner.dataset, body), bodies))
    assert sorted(answer.json()["sequence"] for answer in answers) == list(range(1, 101))
    stored_now = blob_digests(corner.server.data_dir)
    assert {hashlib.sha256(body).hexdigest() for body in bodies} <= stored_now


def test_reaching_the_maximum_of_examples_seals(corner: Corner) -> None:
    from tests.server.stack import create_dataset

    dataset = create_dataset(corner.server, f"{corner.name}-max", max_examples=6)["id"]
    for seed in range(2):
        body = corner.make.body(seed, dataset=dataset)
        assert put(corner.client, dataset, body).status_code == 201
    found = corner.client.get(f"/v1/activation_datasets/{dataset}").json()
    assert found["sealed"] and found["examples"] == 8


def test_metrics_count_accepted_and_refused_shards(corner: Corner) -> None:
    put(corner.client, corner.dataset, corner.make.body(1))
    put(corner.client, corner.dataset, corner.make.body(1), digest="0" * 64)
    text = httpx.get(f"{corner.server.url}/metrics").text
    assert 'splitfrozen_shards_total{outcome="accepted"}' in text
    assert 'splitfrozen_shards_total{outcome="digest_mismatch"}' in text
    assert "splitfrozen_shard_bodies_in_memory 0.0" in text
