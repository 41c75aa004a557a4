"""Every bad upload gets its stable code and status, and leaves nothing behind."""

from __future__ import annotations

import gzip
import hashlib
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import zstandard

from splitfrozen.errors import CODES
from splitfrozen.wire import encode
from tests.server.bodies import WIDTH, Maker, assemble
from tests.server.conftest import Corner
from tests.server.stack import create_dataset, put, stored


def refuse(corner: Corner, body: bytes, code: str, **options: Any) -> dict[str, Any]:
    """PUT and expect `code`, its status, the error shape, and an unchanged data directory."""
    before = stored(corner.server.data_dir)
    answer = put(corner.client, options.pop("dataset", corner.dataset), body, **options)
    error: dict[str, Any] = answer.json()["error"]
    assert (error["code"], answer.status_code) == (code, CODES[code].status), error["message"]
    assert error["message"] and error["type"]
    assert stored(corner.server.data_dir) == before
    return error


def test_wrong_digest(corner: Corner) -> None:
    refuse(corner, corner.make.body(1), "digest_mismatch", digest="0" * 64)


def test_truncated_body(corner: Corner) -> None:
    refuse(corner, corner.make.body(1)[:-1], "truncated")


def test_body_cut_off_in_transit(corner: Corner) -> None:
    body = corner.make.body(1)
    refuse(corner, body, "digest_mismatch", wire=body[:-7])


def test_connection_that_breaks_inside_the_body(corner: Corner) -> None:
    """The client is gone, so there is no answer to check; only that nothing is stored."""
    body = corner.make.body(1)
    before = stored(corner.server.data_dir)
    path = f"/v1/activation_datasets/{corner.dataset}/shards/{hashlib.sha256(body).hexdigest()}"
    head = (
        f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        f"Authorization: {corner.client.headers['Authorization']}\r\n\r\n"
    )
    host, port = corner.server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body[:-20])
        wait_for_bodies(corner.client, 1)  # the handler is at it,
    wait_for_bodies(corner.client, 0)  # and has ended
    assert stored(corner.server.data_dir) == before
    assert put(corner.client, corner.dataset, body).status_code == 201


def wait_for_bodies(client: httpx.Client, count: int) -> None:
    """Wait until so many shard bodies are being received."""
    deadline = time.monotonic() + 30
    while f"splitfrozen_shard_bodies_in_memory {count}.0" not in client.get("/metrics").text:
        assert time.monotonic() < deadline, f"never {count} bodies in memory"
        time.sleep(0.01)


def test_trailing_bytes(corner: Corner) -> None:
    refuse(corner, corner.make.body(1) + b"\0", "trailing")


def test_unknown_codec(corner: Corner) -> None:
    metadata, tensors = corner.make.parts(1)
    refuse(corner, assemble({**metadata, "codec": "int3"}, tensors), "unknown_codec")


def test_unknown_content_encoding(corner: Corner) -> None:
    refuse(corner, corner.make.body(1), "bad_encoding", encoding="br")


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_body_that_is_not_what_its_encoding_says(corner: Corner, encoding: str) -> None:
    refuse(corner, corner.make.body(1), "bad_encoding", encoding=encoding)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_activation_that_is_not_finite(corner: Corner, value: float) -> None:
    metadata, tensors = corner.make.parts(1)
    dtype, shape, chunk = tensors["hidden"]
    broken = struct.pack("<f", value) + chunk[4:]
    body = assemble(metadata, {**tensors, "hidden": (dtype, shape, broken)})
    refuse(corner, body, "not_finite")


def test_scale_that_is_not_finite(corner: Corner) -> None:
    body = bytearray(corner.make.body(1))
    body[-2:] = struct.pack("<e", np.inf)  # `scale` is the last tensor
    refuse(corner, bytes(body), "not_finite")


@pytest.mark.parametrize("label", [2, 2**31 - 1])
def test_label_out_of_range(corner: Corner, label: int) -> None:
    shard = corner.make.shard(1)
    assert shard.labels is not None
    shard.labels[2] = label
    error = refuse(corner, encode(shard), "label_out_of_range")
    assert str(label) in error["message"] and error["param"] == "labels"


def test_negative_label(corner: Corner) -> None:
    metadata, tensors = corner.make.parts(1)
    dtype, shape, chunk = tensors["labels"]
    body = assemble(metadata, {**tensors, "labels": (dtype, shape, b"\xff" * 4 + chunk[4:])})
    refuse(corner, body, "label_out_of_range")


def test_token_id_out_of_range(corner: Corner) -> None:
    dataset = create_dataset(corner.server, f"{corner.name}-lm", task="causal_lm", labels=None)[
        "id"
    ]
    make = Maker(corner.make.bundle, dataset, task="causal_lm")
    shard = make.shard(1)
    assert shard.targets is not None
    shard.targets[1] = 128  # the vocabulary has 128 ids
    refuse(corner, encode(shard), "token_out_of_range", dataset=dataset)
    shard.targets[1] = -100
    assert put(corner.client, dataset, encode(shard)).status_code == 201


def test_shape_that_does_not_match(corner: Corner) -> None:
    metadata, tensors = corner.make.parts(1)
    dtype, shape, chunk = tensors["labels"]
    short = (dtype, [shape[0] - 1], chunk[:-4])
    refuse(corner, assemble(metadata, {**tensors, "labels": short}), "bad_shape")


def test_lengths_that_do_not_add_up(corner: Corner) -> None:
    metadata, tensors = corner.make.parts(1)
    dtype, shape, _ = tensors["lengths"]
    body = assemble(metadata, {**tensors, "lengths": (dtype, shape, b"\x01\0\0\0" * shape[0])})
    refuse(corner, body, "bad_lengths")


def test_other_width_than_the_model(corner: Corner) -> None:
    shard = corner.make.shard(1, codec="fp32")
    wide = np.zeros((shard.tokens, WIDTH + 1), np.float32)
    error = refuse(corner, encode(replace(shard, hidden=wide)), "dataset_mismatch")
    assert error["param"] == "hidden"


def test_example_longer_than_the_bundle_allows(corner: Corner) -> None:
    long = np.zeros((65, WIDTH), np.float32)
    shard = corner.make.shard(
        1, examples=1, codec="fp32", hidden=long, lengths=np.array([65], np.int32)
    )
    refuse(corner, encode(shard), "bad_lengths")


def test_bundle_that_is_not_published(corner: Corner) -> None:
    body = corner.make.body(1, bundle="a" * 64)
    error = refuse(corner, body, "unknown_bundle")
    assert "bundles add" in error["message"]


def test_other_cut_than_the_bundle(corner: Corner) -> None:
    assert refuse(corner, corner.make.body(1, cut=3), "dataset_mismatch")["param"] == "cut"


def test_dataset_of_another_cut_than_the_bundle(corner: Corner) -> None:
    dataset = create_dataset(corner.server, f"{corner.name}-cut1", cut=1)["id"]
    make = Maker(corner.make.bundle, dataset)
    error = refuse(corner, make.body(1), "dataset_mismatch", dataset=dataset)
    assert error["param"] == "cut"


def test_shard_of_another_dataset(corner: Corner) -> None:
    body = corner.make.body(1, dataset="ds_other")
    assert refuse(corner, body, "dataset_mismatch")["param"] == "dataset"


def test_shard_of_another_task(corner: Corner) -> None:
    body = Maker(corner.make.bundle, corner.dataset, task="causal_lm").body(1)
    assert refuse(corner, body, "dataset_mismatch")["param"] == "task"


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("size", [4 << 20, 256 << 20])
def test_bomb(corner: Corner, compress: Callable[[bytes], bytes], size: int) -> None:
    """Below the absolute cap the ratio counts, above it nothing helps."""
    bomb = compress(bytes(size))
    encoding = "gzip" if compress is gzip.compress else "zstd"
    refuse(corner, bytes(8), "too_large", wire=bomb, encoding=encoding)


def test_zstd_frames_one_after_another(corner: Corner) -> None:
    body = corner.make.body(1)
    wire = zstandard.compress(body[:100]) + zstandard.compress(body[100:])
    refuse(corner, body, "bad_encoding", wire=wire, encoding="zstd")


def test_body_over_the_limit_is_refused_by_its_declared_size(corner: Corner) -> None:
    refuse(corner, bytes((8 << 20) + (1 << 18)), "too_large")


def test_hundred_thousand_tensors_in_the_header(corner: Corner) -> None:
    metadata, tensors = corner.make.parts(1)
    many = {f"t{number:06}": ("U8", [1], b"\0") for number in range(100_000)}
    refuse(corner, assemble(metadata, {**tensors, **many}), "header_too_large")


def test_header_that_declares_more_than_the_limit(corner: Corner) -> None:
    refuse(corner, struct.pack("<Q", 2**63) + bytes(100), "header_too_large")


@pytest.mark.parametrize("name", ["../../etc/passwd", "hidden/../labels", "\0", "C:\\x"])
def test_path_characters_in_a_tensor_name(corner: Corner, name: str) -> None:
    metadata, tensors = corner.make.parts(1)
    refuse(corner, assemble(metadata, {**tensors, name: ("U8", [1], b"\0")}), "unknown_tensor")


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..\\x", ""])
def test_path_characters_in_the_dataset_name(corner: Corner, name: str) -> None:
    metadata, tensors = corner.make.parts(1)
    refuse(corner, assemble({**metadata, "dataset": name}, tensors), "bad_metadata")


@pytest.mark.parametrize("name", ["..%2F..%2Fetc", "%2e%2e", "ds_unknown", "a%00b"])
def test_path_characters_in_the_url(corner: Corner, name: str) -> None:
    refuse(corner, corner.make.body(1), "not_found", dataset=name)


@pytest.mark.parametrize("digest", ["..%2F..%2Fx", "A" * 64, "0" * 63, "0" * 65])
def test_url_that_is_no_digest(corner: Corner, digest: str) -> None:
    answer = put(corner.client, corner.dataset, b"", digest=digest)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["code"] in ("invalid_request", "not_found")


def test_integer_of_ten_thousand_digits(corner: Corner) -> None:
    header = b'{"__metadata__":' + b"1" * 10_000 + b"}"
    refuse(corner, struct.pack("<Q", len(header)) + header, "bad_header")


def test_header_nested_ten_thousand_deep(corner: Corner) -> None:
    header = b"[" * 10_000
    refuse(corner, struct.pack("<Q", len(header)) + header, "bad_header")


def test_unsupported_protocol(corner: Corner) -> None:
    answer = corner.client.get("/v1/bundles", headers={"SplitFrozen-Protocol": "2"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["details"]) == ("unsupported_protocol", {"supported": ["1"]})


def test_sealed_dataset_refuses_new_shards_and_repeats_old_receipts(corner: Corner) -> None:
    old = corner.make.body(1)
    first = put(corner.client, corner.dataset, old)
    with corner.server.client() as admin:
        assert admin.post(f"/v1/activation_datasets/{corner.dataset}/seal").json()["sealed"]
    refuse(corner, corner.make.body(2), "dataset_sealed")
    again = put(corner.client, corner.dataset, old)
    assert (again.status_code, again.json()) == (200, first.json())
