"""Shards that the protocol server accepts, for tests that do not compute any."""

from __future__ import annotations

import numpy as np

from splitfrozen import Shard, digest, encode
from tests.edge.protocol_server import ProtocolServer
from tests.edge.tiny_bundle import CUT, WIDTH


def small_body(server: ProtocolServer, dataset: str, first: int = 0) -> tuple[bytes, str]:
    """(body, digest) of two examples, ids counting from `first`."""
    ids = [number.to_bytes(16, "big") for number in (first, first + 1)]
    shard = Shard(
        bundle=next(iter(server.bundles)),
        dataset=dataset,
        cut=CUT,
        codec="int8",
        task="classification",
        hidden=np.zeros((5, WIDTH), np.int8),
        lengths=np.array([2, 3], np.int32),
        scale=np.zeros((5, 1), np.float16),
        example_ids=np.frombuffer(b"".join(ids), np.uint8).reshape(2, 16),
        labels=np.zeros(2, np.int32),
    )
    body = encode(shard)
    return body, digest(body)
